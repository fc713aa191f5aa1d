"""What RL fine-tuning keeps, and how: plans, their prescription and their mechanics."""

"""Which prior knowledge is stronger: the pretrained policy or the dataset it came from."""

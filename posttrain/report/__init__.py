"""Records of runs drawn as figures and as one self-contained page."""

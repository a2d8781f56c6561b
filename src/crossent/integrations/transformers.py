"""crossent in Hugging Face transformers: its losses and its kernels mapping."""

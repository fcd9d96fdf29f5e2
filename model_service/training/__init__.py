"""Fine-tuning jobs, and the training of the embedded models."""

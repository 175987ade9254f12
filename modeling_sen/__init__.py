"""SEN for Transformers: frozen encoders, associated recursively, for video understanding."""

"""Train fused models, unified models and the shipped experts."""

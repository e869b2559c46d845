"""What people look at: figures, the report on one page, its words, and the model card."""

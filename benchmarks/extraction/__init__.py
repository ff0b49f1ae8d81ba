"""How fast attachments are read, beside other readers."""

"""What the database's statements cost as history grows."""

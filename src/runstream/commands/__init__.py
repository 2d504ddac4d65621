"""What the commands of those who run the service do, straight at the database."""

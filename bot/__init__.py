"""The Discord side of Punchline. Importing it never loads torch."""

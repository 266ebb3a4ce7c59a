"""What a run leaves behind: the schema of a record, the files of a results folder, the code and machine that made it. Nothing is computed here."""

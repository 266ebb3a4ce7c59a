"""Records of runs: their schema, the files of a results folder, and the code and machine of a run. Nothing is computed here."""

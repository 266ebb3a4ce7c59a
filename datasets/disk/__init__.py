"""Tasks over published datasets on a disk: ``facts`` describes them, ``layouts`` find them, ``suites`` registers the tasks."""

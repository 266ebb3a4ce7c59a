"""Tasks in three rooms: ``mini`` renders its images, ``disk`` finds published datasets on a disk, ``own`` reads the user's folders and tables."""

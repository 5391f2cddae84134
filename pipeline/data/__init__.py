"""Images on disk to uint8 batches on the device.

    source -> writer -> shards + manifest -> order -> reader (or cache) -> loader

Each stage reads only the one before it. Shards are plain webdataset tar files; the order of samples
is arithmetic on the manifest, so it never depends on how many processes read them.
"""

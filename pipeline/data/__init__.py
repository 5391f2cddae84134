"""Images on disk to uint8 batches on the device.

    source -> writer -> shards + manifest -> order -> reader (or cache) -> loader

Each stage reads only from the one before it. Shards are plain webdataset tar files. The order of samples is
computed from the manifest, so it does not depend on how many processes read them.
"""

"""The object stores: a folder and S3 (and what speaks it). `datamount.objectstore.open_store` picks one by URL."""

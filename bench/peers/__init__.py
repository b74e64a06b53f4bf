"""Other systems that run the same work in the same rounds."""

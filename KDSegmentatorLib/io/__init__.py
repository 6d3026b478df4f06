"""Images in and out: NIfTI, NRRD and MetaImage, and output files that appear whole or not at all."""

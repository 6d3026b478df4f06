"""Images in and out (NIfTI, NRRD, MetaImage, FreeSurfer), and files that appear whole or not at all."""

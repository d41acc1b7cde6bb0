// Home of the precompiled header that the rooms share; a target needs one source.

"""Published methods, one folder each: what a paper claims, our recipe, what we measured. See `headrace papers list`."""

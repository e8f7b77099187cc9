"""What is in the cache, for operators who ask: who has what, who shares it, which files are in it.

    questions.py   what can be asked, and `models.py` what is answered: the API is made of both
    contents.py    answers, here or in a mirror that runs
    catalog.py     the records and the index, read together, where no pull waits for it
    images.py      repositories and images: what is theirs alone, and what they share
    details.py     one image: its tag, the tree of its manifests, its layers and what made them
    files.py       what is in layers, read aside by `layer_program.py`
    compare.py     what each endpoint says of an image, beside what is here

Nothing here changes anything, not even what is worth keeping.
"""

"""The support matrix: what committed result packages and static documents show, and no more.

Evidence lies in `conformance/evidence/`, a folder a backend. A file there is a result package
(``.tar.xz``), verified as `glm5-hal conformance verify` does, or a static document (``.json.xz``)
as `glm5-hal audit --out` and the like write it, with its own digest. Nothing else says what there
is: the files are read, each time.
"""

-- Templates: an image that stays, and defaults for VMs of it. VMs that were made from one have in
-- their own specification what they got, hence no foreign key.
CREATE TABLE templates (
    name     TEXT PRIMARY KEY NOT NULL,
    image    TEXT NOT NULL,
    template TEXT NOT NULL CHECK (json_valid(template))
) STRICT, WITHOUT ROWID;

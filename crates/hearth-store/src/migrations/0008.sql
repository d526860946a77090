-- Data volumes of their own. Written down before they are made, gone after they are removed.
CREATE TABLE data_volumes (
    id         TEXT PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL UNIQUE,
    state      TEXT NOT NULL CHECK (state IN ('creating', 'ready', 'deleting')),
    created_at TEXT NOT NULL,
    volume     TEXT NOT NULL CHECK (json_valid(volume))
) STRICT, WITHOUT ROWID;

-- Which VM has which. A volume is not removed while a VM has it; a VM that goes takes none along.
CREATE TABLE attachments (
    volume    TEXT    NOT NULL REFERENCES data_volumes (id),
    vm        TEXT    NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    mount     TEXT    NOT NULL,
    read_only INTEGER NOT NULL CHECK (read_only IN (0, 1)),
    PRIMARY KEY (volume, vm),
    UNIQUE (vm, mount)
) STRICT, WITHOUT ROWID;

-- One alone may write.
CREATE UNIQUE INDEX attachments_writer ON attachments (volume) WHERE read_only = 0;

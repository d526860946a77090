-- Snapshots of VMs' disks. They outlive their VMs, hence no foreign key. Written down before the
-- first disk is made, gone after the last one is removed.
CREATE TABLE snapshots (
    id         TEXT PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL UNIQUE,
    state      TEXT NOT NULL CHECK (state IN ('creating', 'ready', 'deleting')),
    vm         TEXT NOT NULL,
    image      TEXT NOT NULL,
    created_at TEXT NOT NULL,
    snapshot   TEXT NOT NULL CHECK (json_valid(snapshot))
) STRICT, WITHOUT ROWID;

-- VMs whose disks are still to be made of a snapshot, which is not removed before.
CREATE TABLE origins (
    vm       TEXT PRIMARY KEY NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    snapshot TEXT NOT NULL REFERENCES snapshots (id)
) STRICT, WITHOUT ROWID;

CREATE INDEX origins_snapshot ON origins (snapshot);

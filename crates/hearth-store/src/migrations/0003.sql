-- How runs of VMs ended; gone with the VM.
CREATE TABLE history (
    n     INTEGER PRIMARY KEY AUTOINCREMENT,
    vm    TEXT NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    entry TEXT NOT NULL CHECK (json_valid(entry))
) STRICT;

CREATE INDEX history_vm ON history (vm, n);

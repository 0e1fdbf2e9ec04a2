-- A device says its name and no workspace when it connects, so that it is unique over all workspaces.
CREATE UNIQUE INDEX device_names ON records (name_key) WHERE kind = 'device';

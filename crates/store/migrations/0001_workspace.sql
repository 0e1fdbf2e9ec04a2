-- The first schema. `KEY_TEXT` and `ROW_ID` stand for what SQLite and PostgreSQL write differently (src/database/schema.rs).
-- Times are microseconds since 1970 (UTC), documents are JSON as text, yes and no are 1 and 0.
-- `*_key` columns are names in lower case: what names are compared and sorted by.

CREATE TABLE facts (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE workspaces (
    id ROW_ID,
    name TEXT NOT NULL,
    name_key KEY_TEXT NOT NULL UNIQUE,
    body TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    modified_at BIGINT NOT NULL
);

-- One row a name. Its lock puts registrations of one name in order; `latest` and `latest_active` make listing a walk
-- along one index.
CREATE TABLE asset_names (
    id ROW_ID,
    workspace_id BIGINT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    name_key KEY_TEXT NOT NULL,
    next_version BIGINT NOT NULL,
    latest BIGINT,
    latest_active BIGINT,
    UNIQUE (workspace_id, kind, name_key)
);

CREATE TABLE assets (
    id ROW_ID,
    name_id BIGINT NOT NULL REFERENCES asset_names (id) ON DELETE CASCADE,
    version KEY_TEXT NOT NULL,
    body TEXT NOT NULL,
    digest TEXT NOT NULL,
    files TEXT NOT NULL,
    anonymous BIGINT NOT NULL,
    archived BIGINT NOT NULL,
    stage TEXT,
    created_at BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    UNIQUE (name_id, version)
);
CREATE INDEX assets_by_name ON assets (name_id, id);
CREATE INDEX assets_by_digest ON assets (digest, name_id);

-- Which blobs an asset needs; what no row names may be collected.
CREATE TABLE asset_blobs (
    digest TEXT NOT NULL,
    asset_id BIGINT NOT NULL REFERENCES assets (id) ON DELETE CASCADE,
    PRIMARY KEY (digest, asset_id)
);
CREATE INDEX asset_blobs_by_asset ON asset_blobs (asset_id);

-- Desired state and its status. A deployment's `parent_id` is its endpoint, which cannot go before it.
CREATE TABLE records (
    id ROW_ID,
    workspace_id BIGINT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    name_key KEY_TEXT NOT NULL,
    parent_id BIGINT REFERENCES records (id),
    generation BIGINT NOT NULL,
    body TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    UNIQUE (workspace_id, kind, name_key)
);
CREATE INDEX records_by_kind ON records (kind, workspace_id, name_key);
CREATE INDEX records_by_parent ON records (parent_id);
-- An endpoint's name is its address, so that it is unique over all workspaces.
CREATE UNIQUE INDEX endpoint_names ON records (name_key) WHERE kind = 'endpoint';

CREATE TABLE operations (
    seq ROW_ID,
    id TEXT NOT NULL UNIQUE,
    workspace_id BIGINT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    state TEXT NOT NULL,
    phase TEXT,
    error TEXT,
    created_at BIGINT NOT NULL,
    finished_at BIGINT
);
CREATE INDEX operations_by_state ON operations (state, seq);
CREATE INDEX operations_by_workspace ON operations (workspace_id);

CREATE TABLE operation_lines (
    id ROW_ID,
    operation_seq BIGINT NOT NULL REFERENCES operations (seq) ON DELETE CASCADE,
    line TEXT NOT NULL
);
CREATE INDEX operation_lines_by_operation ON operation_lines (operation_seq, id);

-- `ciphertext` is an age file in hexadecimal digits.
CREATE TABLE secrets (
    id ROW_ID,
    workspace_id BIGINT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    name_key KEY_TEXT NOT NULL,
    version BIGINT NOT NULL,
    ciphertext TEXT NOT NULL,
    modified_at BIGINT NOT NULL,
    UNIQUE (workspace_id, name_key)
);

-- `hash` is the sha256 of the token's secret part.
CREATE TABLE tokens (
    seq ROW_ID,
    id TEXT NOT NULL UNIQUE,
    workspace_id BIGINT REFERENCES workspaces (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    endpoint TEXT,
    hash TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT
);
CREATE INDEX tokens_by_workspace ON tokens (workspace_id);

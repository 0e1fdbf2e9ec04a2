-- What scorers kept of requests and answers: one row a file of records, which is the blob `digest`. `segment` is the id
-- that the scorer gave it, so that one that is fetched twice is there once.
CREATE TABLE collected (
    id ROW_ID,
    workspace_id BIGINT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    endpoint KEY_TEXT NOT NULL,
    deployment KEY_TEXT NOT NULL,
    collection KEY_TEXT NOT NULL,
    segment TEXT NOT NULL UNIQUE,
    begins_at BIGINT NOT NULL,
    records BIGINT NOT NULL,
    size BIGINT NOT NULL,
    digest TEXT NOT NULL
);
CREATE INDEX collected_by_deployment ON collected (workspace_id, endpoint, deployment, id);
CREATE INDEX collected_by_digest ON collected (digest);

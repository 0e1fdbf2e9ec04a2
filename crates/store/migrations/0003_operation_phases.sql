-- When an operation came to each of its phases, in order.
CREATE TABLE operation_phases (
    id ROW_ID,
    operation_seq BIGINT NOT NULL REFERENCES operations (seq) ON DELETE CASCADE,
    name TEXT NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX operation_phases_by_operation ON operation_phases (operation_seq, id);

//! Documents: Azure ML YAML to typed values, errors with file, line and column.

//! What the server has to be allowed in a namespace: one table, from which the role is printed.

use serde_json::{Value, json};

/// Group, resource, verbs.
const TABLE: [(&str, &str, &[&str]); 12] = [
    ("", "serviceaccounts", OBJECT),
    ("", "secrets", OBJECT),
    ("", "services", OBJECT),
    ("apps", "deployments", OBJECT),
    ("networking.k8s.io", "networkpolicies", OBJECT),
    ("policy", "poddisruptionbudgets", OBJECT),
    ("autoscaling", "horizontalpodautoscalers", OBJECT),
    ("monitoring.coreos.com", "podmonitors", OBJECT),
    ("", "pods", &["get", "list", "watch"]),
    ("", "pods/log", &["get"]),
    // A compute that says `reach: forward`.
    ("", "pods/portforward", &["create", "get"]),
    ("coordination.k8s.io", "leases", &["get", "create", "update", "patch"]),
];
const OBJECT: &[&str] = &["get", "list", "watch", "create", "patch", "delete"];

/// The least that a server needs in `namespace`: its `account`, which is one of `account_namespace`, a role, and the binding
/// of the two.
pub fn rbac(namespace: &str, account: &str, account_namespace: &str) -> Vec<Value> {
    let metadata = json!({
        "name": "moorline",
        "namespace": namespace,
        "labels": { "app.kubernetes.io/managed-by": "moorline" },
    });
    let rules: Vec<Value> = TABLE
        .iter()
        .map(|(group, resource, verbs)| json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs }))
        .collect();
    vec![
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": { "name": account, "namespace": account_namespace },
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": rules,
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "moorline" },
            "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": account_namespace }],
        }),
    ]
}

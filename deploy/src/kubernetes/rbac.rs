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

/// What a server has to be allowed beyond that where computes have gateways.
const OF_GATEWAYS: [(&str, &str, &[&str]); 2] =
    [("networking.k8s.io", "ingresses", OBJECT), ("gateway.networking.k8s.io", "httproutes", OBJECT)];

/// The least that a server needs in `namespace`: its `account`, which is one of `account_namespace`, a role, and the binding
/// of the two. With the name of a `gateway`, also what is needed to keep it, and its own account with what it needs.
pub fn rbac(namespace: &str, account: &str, account_namespace: &str, gateway: Option<&str>) -> Vec<Value> {
    let rule = |(group, resource, verbs): &(&str, &str, &[&str])| json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs });
    let mut rules: Vec<Value> = TABLE.iter().map(rule).collect();
    if gateway.is_some() {
        rules.extend(OF_GATEWAYS.iter().map(rule));
    }
    let mut all = granted(namespace, "moorline", (account, account_namespace), &rules);
    if let Some(gateway) = gateway {
        let rules = [
            json!({ "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"] }),
            json!({
                "apiGroups": [""], "resources": ["secrets"], "resourceNames": [gateway],
                "verbs": ["get", "list", "watch"],
            }),
        ];
        all.extend(granted(namespace, gateway, (gateway, namespace), &rules));
    }
    all
}

/// What the account needs beyond a namespace to read Azure ML's own instance types, which are a cluster's.
pub fn rbac_of_instance_types(account: &str, account_namespace: &str) -> Vec<Value> {
    let name = "moorline-instance-types";
    let labels = json!({ "app.kubernetes.io/managed-by": "moorline" });
    vec![
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": { "name": name, "labels": labels },
            "rules": [{ "apiGroups": ["amlarc.azureml.com"], "resources": ["instancetypes"], "verbs": ["get"] }],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": { "name": format!("{name}-{account_namespace}-{account}"), "labels": labels },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name },
            "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": account_namespace }],
        }),
    ]
}

/// An account, a role in `namespace`, and the binding of the two.
fn granted(namespace: &str, name: &str, account: (&str, &str), rules: &[Value]) -> Vec<Value> {
    let (account, account_namespace) = account;
    let metadata = json!({
        "name": name,
        "namespace": namespace,
        "labels": { "app.kubernetes.io/managed-by": "moorline" },
    });
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
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name },
            "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": account_namespace }],
        }),
    ]
}

//! Writing a manifest, as schema 1.1.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{ImagePullPolicy, Manifest, Module, Registry, RestartPolicy, RouteSpec, Status, word};

/// Characters of a text in a twin of Azure's.
const PIECE: usize = 512;
const SCHEMA: &str = "1.1";

impl Manifest {
    /// The manifest as JSON, without `content` around it.
    pub fn to_json(&self) -> Value {
        let agent = &self.agent;
        let mut settings = Map::new();
        for (name, value) in
            [("minDockerVersion", &agent.min_docker_version), ("loggingOptions", &agent.logging_options)]
        {
            settings.extend(value.as_ref().map(|value| (name.to_owned(), value.as_str().into())));
        }
        if !agent.registries.is_empty() {
            settings.insert("registryCredentials".to_owned(), registries_to_json(&agent.registries));
        }
        let modules = agent.modules.iter().map(|(name, module)| (name.clone(), self::module(module, true)));
        let modules: Map<String, Value> = modules.collect();
        let mut store = json!({ "timeToLiveSecs": self.hub.time_to_live });
        if let Some(bytes) = self.hub.max_bytes {
            store["storeLimits"] = json!({ "maxSizeBytes": bytes });
        }
        let routes: Map<String, Value> =
            self.hub.routes.iter().map(|(name, spec)| (name.clone(), route(spec))).collect();
        let mut content = json!({
            "$edgeAgent": { "properties.desired": {
                "schemaVersion": SCHEMA,
                "runtime": { "type": "docker", "settings": settings },
                "systemModules": {
                    "edgeAgent": self::module(&agent.agent, false),
                    "edgeHub": self::module(&agent.hub, true),
                },
                "modules": modules,
            }},
            "$edgeHub": { "properties.desired": {
                "schemaVersion": SCHEMA,
                "routes": routes,
                "storeAndForwardConfiguration": store,
            }},
        });
        for (name, twin) in &self.twins {
            content[name] = json!({ "properties.desired": twin });
        }
        json!({ "modulesContent": content })
    }
}

impl Module {
    /// The module as `$edgeAgent` has it.
    pub fn to_json(&self) -> Value {
        module(self, true)
    }
}

pub(crate) fn registries_to_json(registries: &BTreeMap<String, Registry>) -> Value {
    let written = registries.iter().map(|(name, registry)| {
        let fields = json!({
            "address": registry.address,
            "username": registry.username,
            "password": registry.password,
        });
        (name.clone(), fields)
    });
    Value::Object(written.collect())
}

fn module(module: &Module, full: bool) -> Value {
    let mut settings = Map::new();
    settings.insert("image".to_owned(), module.image.as_str().into());
    let options = Value::Object(module.create_options.clone()).to_string();
    let characters: Vec<char> = options.chars().collect();
    for (number, piece) in characters.chunks(PIECE).enumerate() {
        let name = if number == 0 { "createOptions".to_owned() } else { format!("createOptions{number:02}") };
        settings.insert(name, piece.iter().collect::<String>().into());
    }
    let mut fields = json!({ "type": "docker", "settings": settings });
    if full {
        fields["status"] = word(&Status::ALL, module.status).into();
        fields["restartPolicy"] = word(&RestartPolicy::ALL, module.restart_policy).into();
        if module.startup_order != u32::MAX {
            fields["startupOrder"] = module.startup_order.into();
        }
        if let Some(version) = &module.version {
            fields["version"] = version.as_str().into();
        }
    }
    if module.image_pull_policy != ImagePullPolicy::OnCreate {
        fields["imagePullPolicy"] = word(&ImagePullPolicy::ALL, module.image_pull_policy).into();
    }
    if !module.environment.is_empty() {
        let environment =
            module.environment.iter().map(|(name, value)| (name.clone(), json!({ "value": value })));
        fields["env"] = Value::Object(environment.collect());
    }
    fields
}

fn route(spec: &RouteSpec) -> Value {
    if spec.priority.is_none() && spec.time_to_live.is_none() {
        return spec.route.as_str().into();
    }
    let mut fields = json!({ "route": spec.route });
    if let Some(priority) = spec.priority {
        fields["priority"] = priority.into();
    }
    if let Some(seconds) = spec.time_to_live {
        fields["timeToLiveSecs"] = seconds.into();
    }
    fields
}

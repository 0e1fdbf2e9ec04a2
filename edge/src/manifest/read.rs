//! Reading a manifest: all mistakes at once, each with its place.

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value};
use thiserror::Error;

use super::{
    AgentSection, HubSection, ImagePullPolicy, Manifest, Module, Registry, RestartPolicy, RouteSpec, Status,
    is_module_name,
};
use crate::hub::Route;

const SCHEMAS: [&str; 2] = ["1.0", "1.1"];
const PROPERTIES: &str = "properties.desired";
/// Mistakes that are told.
const MOST: usize = 50;

/// What is wrong at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Names with dots in between; items of a list by their number.
    pub place: String,
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// A manifest that cannot be used.
#[derive(Debug, Error)]
pub enum ManifestError {
    #[error("the manifest is no JSON")]
    Json(#[source] serde_json::Error),
    #[error("the manifest has mistakes:{}", list(.0))]
    Mistakes(Vec<Mistake>),
}

fn list(mistakes: &[Mistake]) -> String {
    let mut text = String::new();
    for mistake in mistakes {
        text.push_str("\n  ");
        text.push_str(&mistake.to_string());
    }
    text
}

impl Manifest {
    /// Reads a manifest, with or without Azure's `content` around it.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let value: Value = serde_json::from_str(text).map_err(ManifestError::Json)?;
        let mut reader = Reader::default();
        let manifest = reader.manifest(&value);
        if reader.mistakes.is_empty() { Ok(manifest) } else { Err(ManifestError::Mistakes(reader.mistakes)) }
    }
}

impl Module {
    /// Reads one module as `$edgeAgent` has it, schema 1.1.
    pub fn read(value: &Value) -> Result<Self, ManifestError> {
        let mut reader = Reader::default();
        let module = reader.module(value, true, true);
        if reader.mistakes.is_empty() { Ok(module) } else { Err(ManifestError::Mistakes(reader.mistakes)) }
    }
}

/// Reads the registries of a `runtime`.
pub(crate) fn read_registries(runtime: &Value) -> Result<BTreeMap<String, Registry>, ManifestError> {
    let (mut reader, mut agent) = (Reader::default(), AgentSection::default());
    reader.runtime(runtime, &mut agent);
    if reader.mistakes.is_empty() {
        Ok(agent.registries)
    } else {
        Err(ManifestError::Mistakes(reader.mistakes))
    }
}

#[derive(Debug, Default)]
struct Reader {
    path: Vec<String>,
    mistakes: Vec<Mistake>,
}

impl Reader {
    fn wrong(&mut self, what: impl Into<String>) {
        if self.mistakes.len() < MOST {
            let place = if self.path.is_empty() { "manifest".to_owned() } else { self.path.join(".") };
            self.mistakes.push(Mistake { place, what: what.into() });
        }
    }

    fn within<T>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(name.to_owned());
        let given = read(self);
        self.path.pop();
        given
    }

    fn object<'a>(&mut self, value: &'a Value) -> Option<&'a Map<String, Value>> {
        let object = value.as_object();
        if object.is_none() {
            self.wrong("expected an object");
        }
        object
    }

    /// The fields of an object; any that is not `known` is a mistake.
    fn fields<'a>(&mut self, value: &'a Value, known: &[&str]) -> Option<&'a Map<String, Value>> {
        let object = self.object(value)?;
        for name in object.keys().filter(|name| !known.contains(&name.as_str())) {
            let what = format!("is not known; expected {}", known.join(", "));
            self.within(name, |reader| reader.wrong(what));
        }
        Some(object)
    }

    fn required<'a>(&mut self, object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
        let value = object.get(name);
        if value.is_none() {
            self.within(name, |reader| reader.wrong("is missing"));
        }
        value
    }

    fn text(&mut self, object: &Map<String, Value>, name: &str) -> Option<String> {
        let value = object.get(name)?;
        let text = value.as_str().map(str::to_owned);
        if text.is_none() {
            self.within(name, |reader| reader.wrong("expected a text"));
        }
        text
    }

    fn required_text(&mut self, object: &Map<String, Value>, name: &str) -> String {
        let Some(value) = self.required(object, name) else { return String::new() };
        if value.as_str().is_some_and(str::is_empty) {
            self.within(name, |reader| reader.wrong("is empty"));
        }
        self.text(object, name).unwrap_or_default()
    }

    fn number(&mut self, object: &Map<String, Value>, name: &str, most: u64) -> Option<u64> {
        let value = object.get(name)?;
        let number = value.as_u64().filter(|number| *number <= most);
        if number.is_none() {
            self.within(name, |reader| reader.wrong(format!("expected a whole number from 0 to {most}")));
        }
        number
    }

    fn word<T: Copy>(&mut self, object: &Map<String, Value>, name: &str, all: &[(&str, T)]) -> Option<T> {
        let text = self.text(object, name)?;
        let found = all.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<&str> = all.iter().map(|(word, _)| *word).collect();
            self.within(name, |reader| reader.wrong(format!("expected one of {}", words.join(", "))));
        }
        found
    }

    fn manifest(&mut self, value: &Value) -> Manifest {
        let empty = || Manifest {
            agent: AgentSection::default(),
            hub: HubSection { routes: BTreeMap::new(), time_to_live: 0, max_bytes: None },
            twins: BTreeMap::new(),
        };
        let inner = match value.get("content") {
            Some(content) => content,
            None => value,
        };
        let Some(outer) = self.object(inner) else { return empty() };
        let Some(content) = self.required(outer, "modulesContent") else { return empty() };
        self.within("modulesContent", |reader| {
            let Some(sections) = reader.object(content) else { return empty() };
            let agent = reader.section(sections, "$edgeAgent", Self::agent).unwrap_or_default();
            let hub = reader.section(sections, "$edgeHub", Self::hub).unwrap_or_else(|| empty().hub);
            let mut twins = BTreeMap::new();
            for name in sections.keys().filter(|name| !name.starts_with("$edge")) {
                if !is_module_name(name) {
                    reader.within(name, |reader| reader.wrong("is no name of a module"));
                } else if !agent.modules.contains_key(name) {
                    reader
                        .within(name, |reader| reader.wrong("has a twin, but is no module of `$edgeAgent`"));
                }
                let twin = reader.section(sections, name, |reader, value| {
                    reader.object(value).cloned().unwrap_or_default()
                });
                twins.extend(twin.map(|twin| (name.clone(), twin)));
            }
            for (name, spec) in &hub.routes {
                reader.check_sink(name, &spec.route, &agent.modules);
            }
            Manifest { agent, hub, twins }
        })
    }

    fn section<T>(
        &mut self,
        sections: &Map<String, Value>,
        name: &str,
        read: impl FnOnce(&mut Self, &Value) -> T,
    ) -> Option<T> {
        let section = self.required(sections, name)?;
        self.within(name, |reader| {
            let object = reader.object(section)?;
            for other in object.keys().filter(|other| *other != PROPERTIES) {
                let what = if other.starts_with(PROPERTIES) {
                    "is part of a layered deployment; give the whole deployment"
                } else {
                    "is not known; expected properties.desired"
                };
                reader.within(other, |reader| reader.wrong(what));
            }
            let properties = reader.required(object, PROPERTIES)?;
            Some(reader.within(PROPERTIES, |reader| read(reader, properties)))
        })
    }

    fn schema(&mut self, object: &Map<String, Value>) -> String {
        let version = self.required_text(object, "schemaVersion");
        if !version.is_empty() && !SCHEMAS.contains(&version.as_str()) {
            self.within("schemaVersion", |reader| reader.wrong("expected 1.0 or 1.1"));
        }
        version
    }

    fn agent(&mut self, value: &Value) -> AgentSection {
        let mut agent = AgentSection::default();
        let known = ["schemaVersion", "runtime", "systemModules", "modules"];
        let Some(object) = self.fields(value, &known) else { return agent };
        let ordered = self.schema(object) != "1.0";
        if let Some(runtime) = self.required(object, "runtime") {
            self.within("runtime", |reader| reader.runtime(runtime, &mut agent));
        }
        if let Some(system) = self.required(object, "systemModules") {
            self.within("systemModules", |reader| {
                let Some(system) = reader.fields(system, &["edgeAgent", "edgeHub"]) else { return };
                for (name, place) in [("edgeAgent", &mut agent.agent), ("edgeHub", &mut agent.hub)] {
                    if let Some(module) = reader.required(system, name) {
                        *place =
                            reader.within(name, |reader| reader.module(module, name != "edgeAgent", ordered));
                    }
                }
            });
        }
        if let Some(modules) = self.required(object, "modules") {
            self.within("modules", |reader| {
                let Some(modules) = reader.object(modules) else { return };
                for (name, module) in modules {
                    reader.within(name, |reader| {
                        if !is_module_name(name) {
                            reader.wrong("a module's name is made of letters, digits, `-` and `_`");
                        }
                        agent.modules.insert(name.clone(), reader.module(module, true, ordered));
                    });
                }
            });
        }
        agent
    }

    fn runtime(&mut self, value: &Value, agent: &mut AgentSection) {
        let Some(runtime) = self.fields(value, &["type", "settings"]) else { return };
        self.docker(runtime);
        let Some(settings) = self.required(runtime, "settings") else { return };
        self.within("settings", |reader| {
            let known = ["minDockerVersion", "loggingOptions", "registryCredentials"];
            let Some(settings) = reader.fields(settings, &known) else { return };
            agent.min_docker_version = reader.text(settings, "minDockerVersion");
            agent.logging_options = reader.text(settings, "loggingOptions");
            let Some(registries) = settings.get("registryCredentials") else { return };
            reader.within("registryCredentials", |reader| {
                let Some(registries) = reader.object(registries) else { return };
                for (name, registry) in registries {
                    reader.within(name, |reader| {
                        let Some(fields) = reader.fields(registry, &["address", "username", "password"])
                        else {
                            return;
                        };
                        let [address, username, password] = ["address", "username", "password"]
                            .map(|field| reader.required_text(fields, field));
                        agent.registries.insert(name.clone(), Registry { address, username, password });
                    });
                }
            });
        });
    }

    fn docker(&mut self, object: &Map<String, Value>) {
        self.required(object, "type");
        self.word(object, "type", &[("docker", ())]);
    }

    /// `full` for all but the agent itself, which always runs.
    fn module(&mut self, value: &Value, full: bool, ordered: bool) -> Module {
        let mut module = Module::default();
        let known: &[&str] = if full {
            &[
                "version",
                "type",
                "status",
                "restartPolicy",
                "imagePullPolicy",
                "startupOrder",
                "env",
                "settings",
            ]
        } else {
            &["type", "imagePullPolicy", "env", "settings"]
        };
        let Some(object) = self.fields(value, known) else { return module };
        self.docker(object);
        module.version = self.text(object, "version");
        if full {
            self.required(object, "status");
            self.required(object, "restartPolicy");
        }
        module.status = self.word(object, "status", &Status::ALL).unwrap_or(module.status);
        module.restart_policy =
            self.word(object, "restartPolicy", &RestartPolicy::ALL).unwrap_or(module.restart_policy);
        module.image_pull_policy =
            self.word(object, "imagePullPolicy", &ImagePullPolicy::ALL).unwrap_or(module.image_pull_policy);
        if let Some(order) = self.number(object, "startupOrder", u32::MAX.into()) {
            module.startup_order = order as u32;
            if !ordered {
                self.within("startupOrder", |reader| reader.wrong("needs schemaVersion 1.1"));
            }
        }
        if let Some(environment) = object.get("env") {
            module.environment = self.within("env", |reader| reader.environment(environment));
        }
        if let Some(settings) = self.required(object, "settings") {
            self.within("settings", |reader| reader.settings(settings, &mut module));
        }
        module
    }

    fn environment(&mut self, value: &Value) -> BTreeMap<String, Value> {
        let mut environment = BTreeMap::new();
        for (name, entry) in self.object(value).into_iter().flatten() {
            self.within(name, |reader| {
                if name.is_empty() || name.contains(|c: char| c.is_whitespace() || "+#$.=".contains(c)) {
                    reader.wrong("is no name of a variable");
                }
                let Some(entry) = reader.fields(entry, &["value"]) else { return };
                match reader.required(entry, "value") {
                    Some(value @ (Value::String(_) | Value::Number(_) | Value::Bool(_))) => {
                        environment.insert(name.clone(), value.clone());
                    }
                    Some(_) => reader
                        .within("value", |reader| reader.wrong("expected a text, a number or a boolean")),
                    None => {}
                }
            });
        }
        environment
    }

    fn settings(&mut self, value: &Value, module: &mut Module) {
        let Some(object) = self.object(value) else { return };
        module.image = self.required_text(object, "image");
        if module.image.contains(char::is_whitespace) {
            self.within("image", |reader| reader.wrong("is no reference of an image"));
        }
        // In pieces, since a text of a twin is short; the first one has no number.
        let mut pieces: BTreeMap<u32, String> = BTreeMap::new();
        for (name, value) in object.iter().filter(|(name, _)| *name != "image") {
            let number = name
                .strip_prefix("createOptions")
                .or_else(|| name.strip_prefix("createoptions"))
                .and_then(|rest| if rest.is_empty() { Some(0) } else { rest.parse().ok() });
            self.within(name, |reader| match (number, value) {
                (None, _) => reader.wrong("is not known; expected image, createOptions"),
                (Some(number), Value::String(piece)) => {
                    if pieces.insert(number, piece.clone()).is_some() {
                        reader.wrong("is there twice");
                    }
                }
                // Tools write the object itself before they send it.
                (Some(0), Value::Object(options)) => module.create_options.clone_from(options),
                (Some(_), _) => reader.wrong("expected JSON in a text"),
            });
        }
        if let Some(missing) = (0..).zip(pieces.keys()).find(|(expected, number)| expected != *number) {
            self.wrong(format!("the createOptions are in pieces, and number {} is missing", missing.0));
            return;
        }
        let text: String = pieces.into_values().collect();
        if !text.is_empty() {
            match serde_json::from_str(&text) {
                Ok(options) => module.create_options = options,
                Err(error) => {
                    self.within("createOptions", |reader| {
                        reader.wrong(format!("holds no JSON object ({error})"));
                    });
                }
            }
        }
    }

    fn hub(&mut self, value: &Value) -> HubSection {
        let mut hub = HubSection { routes: BTreeMap::new(), time_to_live: 0, max_bytes: None };
        let known = ["schemaVersion", "routes", "storeAndForwardConfiguration"];
        let Some(object) = self.fields(value, &known) else { return hub };
        let prioritised = self.schema(object) != "1.0";
        if let Some(store) = self.required(object, "storeAndForwardConfiguration") {
            self.within("storeAndForwardConfiguration", |reader| {
                let Some(store) = reader.fields(store, &["timeToLiveSecs", "storeLimits"]) else { return };
                reader.required(store, "timeToLiveSecs");
                hub.time_to_live =
                    reader.number(store, "timeToLiveSecs", u32::MAX.into()).unwrap_or_default();
                if let Some(limits) = store.get("storeLimits") {
                    reader.within("storeLimits", |reader| {
                        let Some(limits) = reader.fields(limits, &["maxSizeBytes"]) else { return };
                        hub.max_bytes = reader.number(limits, "maxSizeBytes", i64::MAX as u64);
                    });
                }
            });
        }
        if let Some(routes) = self.required(object, "routes") {
            self.within("routes", |reader| {
                for (name, route) in reader.object(routes).into_iter().flatten() {
                    reader.within(name, |reader| {
                        if name.is_empty() || name.contains(['.', '$', '#', ' ']) {
                            reader.wrong("a route's name has none of `.`, `$`, `#` and space");
                        }
                        let spec = reader.route(route, prioritised);
                        hub.routes.extend(spec.map(|spec| (name.clone(), spec)));
                    });
                }
            });
        }
        hub
    }

    fn route(&mut self, value: &Value, prioritised: bool) -> Option<RouteSpec> {
        let spec = match value {
            Value::String(route) => RouteSpec { route: route.clone(), priority: None, time_to_live: None },
            value => {
                if !prioritised {
                    self.wrong("a route with priority needs schemaVersion 1.1");
                }
                let object = self.fields(value, &["route", "priority", "timeToLiveSecs"])?;
                RouteSpec {
                    route: self.required_text(object, "route"),
                    priority: self.number(object, "priority", 9).map(|number| number as u8),
                    time_to_live: self
                        .number(object, "timeToLiveSecs", u32::MAX.into())
                        .map(|number| number as u32),
                }
            }
        };
        if let Err(error) = spec.route.parse::<Route>()
            // That it is missing was said.
            && (value.is_string() || !spec.route.is_empty())
        {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            self.wrong(format!("{error}{}", cause.unwrap_or_default()));
        }
        Some(spec)
    }

    /// A route that leads to a module which there is not would keep its messages for ever.
    fn check_sink(&mut self, name: &str, route: &str, modules: &BTreeMap<String, Module>) {
        let Ok(route) = route.parse::<Route>() else { return };
        if let crate::hub::Sink::Input { module, .. } = route.sink()
            && !modules.contains_key(module)
        {
            let what = format!("leads to `{module}`, which is no module of `$edgeAgent`");
            for part in ["$edgeHub", PROPERTIES, "routes", name] {
                self.path.push(part.to_owned());
            }
            self.wrong(what);
            self.path.truncate(self.path.len() - 4);
        }
    }
}

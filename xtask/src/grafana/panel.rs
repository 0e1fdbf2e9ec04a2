//! What a dashboard is made of, and how Grafana writes it.

use serde_json::{Value, json};

/// Grafana's grid.
const WIDTH: u64 = 24;
/// The version of Grafana's format.
const SCHEMA: u64 = 39;

/// A dashboard.
#[derive(Debug)]
pub(super) struct Board {
    /// Of its file, and what its address ends with.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) help: &'static str,
    pub(super) variables: Vec<Variable>,
    pub(super) rows: Vec<Row>,
}

/// What is chosen at the top of a dashboard: the values of a label.
#[derive(Debug)]
pub(super) struct Variable {
    pub(super) name: &'static str,
    /// As Prometheus is asked for them.
    pub(super) values: &'static str,
    /// All of them can be chosen at one time.
    pub(super) several: bool,
}

/// Panels side by side, under a heading.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) title: &'static str,
    pub(super) height: u64,
    pub(super) panels: Vec<Panel>,
}

/// One picture.
#[derive(Debug)]
pub(super) struct Panel {
    title: &'static str,
    help: &'static str,
    kind: Kind,
    unit: Unit,
    queries: Vec<(String, &'static str)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Lines,
    /// One number.
    Number,
    Table,
    /// What was true when.
    States,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Unit {
    Count,
    PerSecond,
    Seconds,
    Share,
    Bytes,
    BytesPerSecond,
    Cores,
}

impl Unit {
    const fn name(self) -> &'static str {
        match self {
            Self::Count => "short",
            Self::PerSecond => "reqps",
            Self::Seconds => "s",
            Self::Share => "percentunit",
            Self::Bytes => "bytes",
            Self::BytesPerSecond => "Bps",
            Self::Cores => "none",
        }
    }
}

impl Panel {
    pub(super) fn new(kind: Kind, unit: Unit, title: &'static str, help: &'static str) -> Self {
        Self { title, help, kind, unit, queries: Vec::new() }
    }

    pub(super) fn lines(unit: Unit, title: &'static str, help: &'static str) -> Self {
        Self::new(Kind::Lines, unit, title, help)
    }

    /// Adds a question; `legend` is what its series are called.
    pub(super) fn ask(mut self, expression: impl Into<String>, legend: &'static str) -> Self {
        self.queries.push((expression.into(), legend));
        self
    }

    fn json(&self, id: u64, place: &Value) -> Value {
        let now = self.kind == Kind::Table || self.kind == Kind::Number;
        let targets = self.queries.iter().zip('A'..).map(|((expression, legend), letter)| {
            json!({
                "refId": letter.to_string(),
                "datasource": datasource(),
                "expr": expression,
                "legendFormat": legend,
                "instant": now,
                "range": !now,
                "format": if self.kind == Kind::Table { "table" } else { "time_series" },
            })
        });
        let mut panel = json!({
            "id": id,
            "title": self.title,
            "description": self.help,
            "datasource": datasource(),
            "gridPos": place,
            "targets": targets.collect::<Vec<_>>(),
            "fieldConfig": { "defaults": { "unit": self.unit.name(), "min": 0 }, "overrides": [] },
        });
        match self.kind {
            Kind::Lines => {
                panel["type"] = "timeseries".into();
                panel["options"] = json!({
                    "legend": { "displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"] },
                    "tooltip": { "mode": "multi", "sort": "desc" },
                });
                panel["fieldConfig"]["defaults"]["custom"] =
                    json!({ "lineWidth": 1, "fillOpacity": 8, "showPoints": "never", "spanNulls": false });
            }
            Kind::Number => {
                panel["type"] = "stat".into();
                panel["options"] =
                    json!({ "reduceOptions": { "calcs": ["lastNotNull"] }, "colorMode": "value" });
            }
            Kind::Table => {
                panel["type"] = "table".into();
                panel["options"] = json!({ "showHeader": true });
                panel["transformations"] = json!([
                    { "id": "merge", "options": {} },
                    { "id": "organize", "options": { "excludeByName": { "Time": true, "__name__": true, "instance": true, "job": true } } },
                ]);
            }
            Kind::States => {
                panel["type"] = "state-timeline".into();
                panel["options"] = json!({ "showValue": "never", "mergeValues": true });
            }
        }
        panel
    }
}

fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

impl Board {
    pub(super) fn json(&self) -> Value {
        let mut panels = Vec::new();
        let mut y = 0;
        for row in &self.rows {
            let id = panels.len() as u64 + 1;
            panels.push(json!({
                "id": id, "type": "row", "title": row.title, "collapsed": false, "panels": [],
                "gridPos": { "x": 0, "y": y, "w": WIDTH, "h": 1 },
            }));
            y += 1;
            let width = WIDTH / row.panels.len().max(1) as u64;
            for (index, panel) in row.panels.iter().enumerate() {
                let place = json!({ "x": index as u64 * width, "y": y, "w": width, "h": row.height });
                panels.push(panel.json(panels.len() as u64 + 1, &place));
            }
            y += row.height;
        }
        let mut variables = vec![json!({
            "name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus",
        })];
        variables.extend(self.variables.iter().map(|variable| {
            json!({
                "name": variable.name,
                "type": "query",
                "datasource": datasource(),
                "query": { "query": variable.values, "refId": variable.name },
                "definition": variable.values,
                "refresh": 2,
                "sort": 1,
                "multi": variable.several,
                "includeAll": variable.several,
                "allValue": if variable.several { ".*" } else { "" },
            })
        }));
        json!({
            "uid": format!("moorline-{}", self.name),
            "title": format!("Moorline / {}", self.title),
            "description": self.help,
            "tags": ["moorline"],
            "schemaVersion": SCHEMA,
            "version": 1,
            "editable": true,
            "time": { "from": "now-1h", "to": "now" },
            "refresh": "10s",
            "graphTooltip": 1,
            "links": [{
                "type": "dashboards", "title": "Moorline", "tags": ["moorline"], "asDropdown": true,
                "includeVars": true, "keepTime": true,
            }],
            "templating": { "list": variables },
            "panels": panels,
        })
    }
}

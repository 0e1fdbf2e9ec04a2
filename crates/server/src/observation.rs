//! Where what is seen of requests goes: the settings of a server and of a namespace's gateway, what a gateway makes of them,
//! and what scorers are told of them.

use std::{collections::BTreeMap, error::Error};

use moorline_gateway as gateway;
use moorline_observe::{LinePlace, LinesConfig, TraceConfig, Tracing};

/// The settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// Nothing is traced where it is left out.
    pub traces: Option<TraceConfig>,
    /// The access log; none where it is left out.
    pub access_log: Option<LinesConfig>,
}

impl Observation {
    /// The variable by which a gateway is told where its access log goes.
    pub const ACCESS_LOG: &str = "MOORLINE_ACCESS_LOG";

    /// Begins what a gateway writes to.
    pub(crate) fn open(&self) -> Result<gateway::Observation, Box<dyn Error + Send + Sync>> {
        let tracing = self.traces.as_ref().map(Tracing::new).transpose()?;
        let access_log = self.access_log.as_ref().map(LinesConfig::open).transpose()?.flatten();
        Ok(gateway::Observation { tracing, access_log })
    }

    /// What a scorer is told where its deployment says nothing else: the same collector, under the names that any server
    /// knows.
    pub(crate) fn variables(&self) -> BTreeMap<String, String> {
        let traces = self.traces.iter();
        let pairs = |traces: &TraceConfig| {
            [(TraceConfig::ENDPOINT, traces.endpoint.clone()), (TraceConfig::RATIO, traces.ratio.to_string())]
        };
        traces.flat_map(pairs).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// What the gateway of a namespace is told. Its access log is its pods'.
    pub(crate) fn variables_of_gateway(&self) -> BTreeMap<String, String> {
        let mut variables = self.variables();
        if self.access_log.as_ref().is_some_and(|log| log.place != LinePlace::Off) {
            variables.insert(Self::ACCESS_LOG.to_owned(), "-".to_owned());
        }
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_started_is_told_what_this_server_was() {
        let traces =
            TraceConfig { endpoint: "http://c:4317".to_owned(), ratio: 0.25, service_name: "x".to_owned() };
        let file = LinesConfig { place: LinePlace::File("/a".into()), max_bytes: 1, kept: 1 };
        let observation = Observation { traces: Some(traces), access_log: Some(file) };
        let pairs = |variables: BTreeMap<String, String>| variables.into_iter().collect::<Vec<_>>();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let told = vec![
            pair("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"),
            pair("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ];
        assert_eq!(pairs(observation.variables()), told);
        let gateway = [vec![pair("MOORLINE_ACCESS_LOG", "-")], told].concat();
        assert_eq!(pairs(observation.variables_of_gateway()), gateway);
        assert!(Observation::default().variables_of_gateway().is_empty());
    }
}

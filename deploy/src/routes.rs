//! Where a container is asked whether it is ready and alive, and where it is sent requests.

use moorline_core::InferenceConfig;

/// Where our scorer listens in a container.
const DATA_PORT: u16 = 5001;
const ADMIN_PORT: u16 = 5000;

/// Ports and paths of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Routes {
    pub(crate) data_port: u16,
    pub(crate) ready: (u16, String),
    pub(crate) live: (u16, String),
    /// It is our scorer, which has metrics and can be drained.
    pub(crate) scorer: bool,
}

impl Routes {
    /// Those of our scorer, or of the server that an image brings.
    pub(crate) fn of(own_server: Option<&InferenceConfig>) -> Self {
        match own_server {
            None => Self {
                data_port: DATA_PORT,
                ready: (ADMIN_PORT, "/ready".to_owned()),
                live: (ADMIN_PORT, "/live".to_owned()),
                scorer: true,
            },
            Some(routes) => Self {
                data_port: routes.scoring_route.port,
                ready: (routes.readiness_route.port, routes.readiness_route.path.clone()),
                live: (routes.liveness_route.port, routes.liveness_route.path.clone()),
                scorer: false,
            },
        }
    }
}

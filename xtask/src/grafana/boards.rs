//! The dashboards: what a fleet does, what one endpoint, one deployment and one device do.

use super::panel::{Board, Kind, Panel, Row, Unit, Variable};

const ENDPOINTS: &str = "label_values(moorline_deployment_state, endpoint)";
const DEPLOYMENTS: &str = "label_values(moorline_deployment_state{endpoint=~\"$endpoint\"}, deployment)";

pub(super) fn all() -> Vec<Board> {
    vec![fleet(), endpoint(), deployment(), device()]
}

/// A quantile of a histogram, by what stays apart.
fn quantile(q: f64, histogram: &str, selector: &str, by: &str) -> String {
    format!(
        "histogram_quantile({q}, sum by ({by}, le) (rate({histogram}_bucket{{{selector}}}[$__rate_interval])))"
    )
}

/// A mean of a histogram, by what stays apart.
fn mean(histogram: &str, selector: &str, by: &str) -> String {
    let of = |part: &str| format!("sum by ({by}) (rate({histogram}_{part}{{{selector}}}[$__rate_interval]))");
    format!("{} / {}", of("sum"), of("count"))
}

/// The growth of a counter a second, by what stays apart.
fn rate(counter: &str, selector: &str, by: &str) -> String {
    format!("sum by ({by}) (rate({counter}{{{selector}}}[$__rate_interval]))")
}

fn fleet() -> Board {
    let number = |title, help, expression: &str| {
        Panel::new(Kind::Number, Unit::Count, title, help).ask(expression, "")
    };
    let both = "endpoint, deployment";
    let each = "{{endpoint}}/{{deployment}}";
    Board {
        name: "fleet",
        title: "Fleet",
        help: "Every endpoint, deployment and device of a server.",
        variables: Vec::new(),
        rows: vec![
            Row {
                title: "Now",
                height: 4,
                panels: vec![
                    number("Deployments", "All that there are.", "count(moorline_deployment_state == 1)"),
                    number(
                        "Failed",
                        "The newest generation did not start; what served before serves on.",
                        "count(moorline_deployment_state{state=\"Failed\"} == 1) or vector(0)",
                    ),
                    number(
                        "Replicas ready",
                        "Replicas that take requests.",
                        "sum(moorline_deployment_replicas{state=\"ready\"})",
                    ),
                    Panel::new(Kind::Number, Unit::PerSecond, "Requests", "Answered by all deployments.")
                        .ask("sum(endpoint_deployment:moorline_requests:rate5m)", ""),
                    number(
                        "Devices connected",
                        "Devices and modules at the hub.",
                        "sum(moorline_hub_clients)",
                    ),
                    number(
                        "Alerts",
                        "Alerts of deploy/prometheus that fire.",
                        "count(ALERTS{alertname=~\"Moorline.*\", alertstate=\"firing\"}) or vector(0)",
                    ),
                ],
            },
            Row {
                title: "Requests",
                height: 9,
                panels: vec![
                    Panel::lines(Unit::PerSecond, "Requests", "Answered, by deployment.")
                        .ask(rate("moorline_gateway_requests_total", "deployment!=\"\"", both), each),
                    Panel::lines(Unit::Share, "Errors", "The share that failed by the deployment's fault.")
                        .ask("endpoint_deployment:moorline_failures:ratio_rate5m", each),
                    Panel::lines(Unit::Seconds, "p99", "99 of 100 requests were answered within.")
                        .ask(quantile(0.99, "moorline_gateway_request_duration_seconds", "", both), each),
                ],
            },
            Row {
                title: "Deployments",
                height: 9,
                panels: vec![
                    Panel::new(Kind::Table, Unit::Count, "States", "What the reconciler came to.")
                        .ask("moorline_deployment_state == 1", ""),
                    Panel::lines(
                        Unit::Share,
                        "Saturation",
                        "Requests in flight over those that ready replicas take.",
                    )
                    .ask("endpoint_deployment:moorline_saturation:ratio", each),
                    Panel::lines(
                        Unit::Count,
                        "Restarts",
                        "Replicas and workers that were started again, in 15 minutes.",
                    )
                    .ask("increase(moorline_deployment_restarts_total[15m])", each),
                ],
            },
            Row {
                title: "The server",
                height: 8,
                panels: vec![
                    Panel::lines(Unit::Cores, "Processor", "Cores of the server and its replicas.").ask(
                        "rate(process_cpu_seconds_total[$__rate_interval])",
                        "{{job}} {{endpoint}}/{{deployment}} {{replica}}",
                    ),
                    Panel::lines(Unit::Bytes, "Memory", "Of the server and its replicas.").ask(
                        "process_resident_memory_bytes",
                        "{{job}} {{endpoint}}/{{deployment}} {{replica}}",
                    ),
                    Panel::lines(Unit::PerSecond, "Scrapes", "Of the built-in monitor, by how they went.")
                        .ask(rate("moorline_monitor_scrapes_total", "", "outcome"), "{{outcome}}"),
                ],
            },
        ],
    }
}

fn endpoint() -> Board {
    let own = "endpoint=~\"$endpoint\"";
    let of = "{{deployment}}";
    let duration = "moorline_gateway_request_duration_seconds";
    Board {
        name: "endpoint",
        title: "Endpoint",
        help: "One endpoint: how its deployments share and answer its requests.",
        variables: vec![Variable { name: "endpoint", values: ENDPOINTS, several: false }],
        rows: vec![
            Row {
                title: "Requests",
                height: 9,
                panels: vec![
                    Panel::lines(Unit::PerSecond, "Requests by deployment", "Where the traffic goes.")
                        .ask(rate("moorline_gateway_requests_total", own, "deployment"), of),
                    Panel::lines(
                        Unit::PerSecond,
                        "Requests by status",
                        "HTTP status; 499 is a caller that left.",
                    )
                    .ask(rate("moorline_gateway_requests_total", own, "code"), "{{code}}"),
                    Panel::lines(Unit::Share, "Errors", "The share that failed by the deployment's fault.")
                        .ask(format!("endpoint_deployment:moorline_failures:ratio_rate5m{{{own}}}"), of),
                ],
            },
            Row {
                title: "Latency",
                height: 9,
                panels: vec![
                    Panel::lines(Unit::Seconds, "p50", "Half of the requests were answered within.")
                        .ask(quantile(0.5, duration, own, "deployment"), of),
                    Panel::lines(Unit::Seconds, "p90", "Nine of ten requests were answered within.")
                        .ask(quantile(0.9, duration, own, "deployment"), of),
                    Panel::lines(Unit::Seconds, "p99", "99 of 100 requests were answered within.")
                        .ask(quantile(0.99, duration, own, "deployment"), of)
                        .ask(
                            format!("moorline_deployment_request_timeout_seconds{{{own}}}"),
                            "deadline of {{deployment}}",
                        ),
                ],
            },
            Row {
                title: "Places",
                height: 9,
                panels: vec![
                    Panel::lines(
                        Unit::Count,
                        "In flight",
                        "Requests that are not answered, and the places that there are.",
                    )
                    .ask(format!("moorline_gateway_requests_in_flight{{{own}}}"), of)
                    .ask(
                        format!("moorline_deployment_capacity_requests{{{own}}}"),
                        "places of {{deployment}}",
                    ),
                    Panel::lines(
                        Unit::Seconds,
                        "Waiting",
                        "Of those that found no free place: p90 of how long they waited.",
                    )
                    .ask(quantile(0.9, "moorline_gateway_queue_duration_seconds", own, "deployment"), of),
                    Panel::lines(
                        Unit::PerSecond,
                        "Retries and mirrored copies",
                        "Requests that went to a second replica, and copies.",
                    )
                    .ask(
                        rate("moorline_gateway_retries_total", own, "deployment"),
                        "retries of {{deployment}}",
                    )
                    .ask(
                        rate("moorline_gateway_mirrored_total", own, "deployment, outcome"),
                        "{{deployment}} {{outcome}}",
                    ),
                ],
            },
            Row {
                title: "Replicas",
                height: 8,
                panels: vec![
                    Panel::lines(Unit::Count, "Ready", "Replicas that take requests.")
                        .ask(format!("moorline_deployment_replicas{{{own}, state=\"ready\"}}"), of),
                    Panel::new(
                        Kind::States,
                        Unit::Count,
                        "States",
                        "The provisioning state of each deployment.",
                    )
                    .ask(format!("moorline_deployment_state{{{own}}}"), "{{deployment}} {{state}}"),
                ],
            },
        ],
    }
}

fn deployment() -> Board {
    let own = "endpoint=~\"$endpoint\", deployment=~\"$deployment\"";
    let of = "{{deployment}} {{replica}}";
    let apart = "deployment, replica";
    Board {
        name: "deployment",
        title: "Deployment",
        help: "One deployment, as its replicas see it: waiting, running, batches, processor, memory, devices.",
        variables: vec![
            Variable { name: "endpoint", values: ENDPOINTS, several: false },
            Variable { name: "deployment", values: DEPLOYMENTS, several: true },
        ],
        rows: vec![
            Row {
                title: "Requests",
                height: 9,
                panels: vec![
                    Panel::lines(Unit::PerSecond, "Requests", "Answered by each replica, by protocol.").ask(
                        rate("moorline_requests_total", own, "deployment, replica, protocol"),
                        "{{deployment}} {{replica}} {{protocol}}",
                    ),
                    Panel::lines(Unit::PerSecond, "By status", "HTTP status, or its equivalent.").ask(
                        rate("moorline_requests_total", own, "deployment, code"),
                        "{{deployment}} {{code}}",
                    ),
                    Panel::lines(
                        Unit::Count,
                        "In flight",
                        "Requests that have arrived and are not answered.",
                    )
                    .ask(format!("moorline_requests_in_flight{{{own}}}"), of),
                ],
            },
            Row {
                title: "Where the time goes",
                height: 9,
                panels: vec![
                    Panel::lines(Unit::Seconds, "Whole request", "From its head to its answer: p50 and p99.")
                        .ask(
                            quantile(0.5, "moorline_request_duration_seconds", own, "deployment"),
                            "p50 {{deployment}}",
                        )
                        .ask(
                            quantile(0.99, "moorline_request_duration_seconds", own, "deployment"),
                            "p99 {{deployment}}",
                        ),
                    Panel::lines(
                        Unit::Seconds,
                        "Waiting",
                        "From admission to the start of inference: the mean.",
                    )
                    .ask(mean("moorline_queue_duration_seconds", own, apart), of),
                    Panel::lines(
                        Unit::Seconds,
                        "Running",
                        "One run of the engine or of the scoring script: the mean.",
                    )
                    .ask(mean("moorline_inference_duration_seconds", own, apart), of),
                ],
            },
            Row {
                title: "Work",
                height: 9,
                panels: vec![
                    Panel::lines(Unit::Count, "Batch", "Rows of one run of the engine: the mean.")
                        .ask(mean("moorline_batch_size", own, apart), of),
                    Panel::lines(
                        Unit::BytesPerSecond,
                        "Bytes",
                        "Of requests as received, and of answers as sent.",
                    )
                    .ask(rate("moorline_request_bytes_total", own, "deployment"), "in {{deployment}}")
                    .ask(rate("moorline_response_bytes_total", own, "deployment"), "out {{deployment}}"),
                    Panel::lines(
                        Unit::Count,
                        "Restarts",
                        "Workers of the scoring script, and replicas, in 15 minutes.",
                    )
                    .ask(
                        format!("increase(moorline_script_restarts_total{{{own}}}[15m])"),
                        "workers {{deployment}} {{replica}}",
                    )
                    .ask(
                        format!("increase(moorline_deployment_restarts_total{{{own}}}[15m])"),
                        "{{deployment}}",
                    ),
                ],
            },
            Row {
                title: "The process",
                height: 8,
                panels: vec![
                    Panel::lines(Unit::Cores, "Processor", "Cores of each scorer, and of its workers.")
                        .ask(format!("rate(process_cpu_seconds_total{{{own}}}[$__rate_interval])"), of)
                        .ask(
                            rate("moorline_worker_cpu_seconds_total", own, apart),
                            "workers of {{deployment}} {{replica}}",
                        ),
                    Panel::lines(Unit::Bytes, "Memory", "Of each scorer, and of its workers.")
                        .ask(format!("process_resident_memory_bytes{{{own}}}"), of)
                        .ask(
                            format!("moorline_worker_resident_memory_bytes{{{own}}}"),
                            "workers of {{deployment}} {{replica}}",
                        ),
                    Panel::lines(Unit::Seconds, "Model load", "Loading and warming the model.")
                        .ask(format!("moorline_model_load_seconds{{{own}}}"), of),
                ],
            },
            Row {
                title: "On a bitstream",
                height: 8,
                panels: vec![
                    Panel::lines(
                        Unit::Share,
                        "Device busy",
                        "The part of the last minute in which kernels ran.",
                    )
                    .ask(format!("moorline_fpga_device_busy_ratio{{{own}}}"), of),
                    Panel::lines(
                        Unit::Seconds,
                        "Kernels",
                        "One launch, by the device's own clock: the mean.",
                    )
                    .ask(mean("moorline_fpga_kernel_seconds", own, "kernel"), "{{kernel}}"),
                    Panel::lines(Unit::BytesPerSecond, "Transfers", "Bytes of tensors and constants.")
                        .ask(rate("moorline_fpga_transfer_bytes_total", own, "direction"), "{{direction}}"),
                ],
            },
        ],
    }
}

fn device() -> Board {
    let own = "device=~\"$device\"";
    let of = "{{device}} {{module}}";
    let apart = "device, module";
    Board {
        name: "device",
        title: "Device",
        help: "Devices and modules, as they see themselves and as the hub sees them.",
        variables: vec![Variable {
            name: "device",
            values: "label_values(moorline_edge_device_connected, device)",
            several: true,
        }],
        rows: vec![
            Row {
                title: "Devices",
                height: 8,
                panels: vec![
                    Panel::new(
                        Kind::States,
                        Unit::Count,
                        "Connected",
                        "Whether the agent of a device is connected.",
                    )
                    .ask(format!("moorline_edge_device_connected{{{own}}}"), "{{device}}"),
                    Panel::lines(Unit::Seconds, "Not seen for", "Since a device was connected.").ask(
                        format!("time() - moorline_edge_device_last_seen_timestamp_seconds{{{own}}}"),
                        "{{device}}",
                    ),
                    Panel::lines(Unit::Count, "Load", "Processes that ran or wanted to, and processors.")
                        .ask(format!("moorline_device_load{{{own}}}"), "{{device}}")
                        .ask(format!("moorline_device_processors{{{own}}}"), "processors of {{device}}"),
                    Panel::lines(Unit::Bytes, "Memory available", "Of that of the device.")
                        .ask(format!("moorline_device_memory_available_bytes{{{own}}}"), "{{device}}")
                        .ask(format!("moorline_device_memory_bytes{{{own}}}"), "all of {{device}}"),
                ],
            },
            Row {
                title: "Modules",
                height: 9,
                panels: vec![
                    Panel::lines(Unit::PerSecond, "Requests", "Answered on the device.")
                        .ask(rate("moorline_module_requests_total", own, apart), of),
                    Panel::lines(Unit::PerSecond, "Errors", "Requests that failed: status 500 and above.")
                        .ask(rate("moorline_module_errors_total", own, apart), of),
                    Panel::lines(Unit::Seconds, "p99", "99 of 100 requests were answered within.")
                        .ask(format!("moorline_module_request_p99_seconds{{{own}}}"), of),
                ],
            },
            Row {
                title: "What modules use",
                height: 8,
                panels: vec![
                    Panel::lines(Unit::Cores, "Processor", "Cores of the processes of each module.")
                        .ask(rate("moorline_module_cpu_seconds_total", own, apart), of),
                    Panel::lines(Unit::Bytes, "Memory", "Of the processes of each module.")
                        .ask(format!("moorline_module_resident_bytes{{{own}}}"), of),
                    Panel::lines(
                        Unit::Count,
                        "Restarts",
                        "Times that modules were started again, in an hour.",
                    )
                    .ask(format!("increase(moorline_module_restarts_total{{{own}}}[1h])"), of),
                    Panel::lines(
                        Unit::Count,
                        "Waiting and lost",
                        "Messages on the device that wait for the server, and that were lost.",
                    )
                    .ask(format!("moorline_device_queue_messages{{{own}}}"), "waiting on {{device}}")
                    .ask(format!("moorline_device_lost_messages_total{{{own}}}"), "lost on {{device}}"),
                ],
            },
            Row {
                title: "The hub",
                height: 8,
                panels: vec![
                    Panel::lines(
                        Unit::Count,
                        "Connected",
                        "Devices and modules that are connected, and connections.",
                    )
                    .ask("moorline_hub_clients", "clients")
                    .ask("moorline_hub_connections", "connections"),
                    Panel::lines(Unit::PerSecond, "Logins", "Attempts to connect, by what became of them.")
                        .ask(rate("moorline_hub_logins_total", "", "outcome"), "{{outcome}}"),
                    Panel::lines(Unit::PerSecond, "Ended sessions", "By the reason.")
                        .ask(rate("moorline_hub_sessions_ended_total", "", "reason"), "{{reason}}"),
                ],
            },
            Row {
                title: "Messages",
                height: 9,
                panels: vec![
                    Panel::lines(Unit::PerSecond, "Received", "Messages that devices and modules sent.")
                        .ask(rate("moorline_hub_messages_received_total", own, apart), of),
                    Panel::lines(Unit::PerSecond, "Sent", "Messages from queues that they were sent.")
                        .ask(rate("moorline_hub_messages_sent_total", own, apart), of),
                    Panel::lines(Unit::BytesPerSecond, "Bytes", "Of payloads that they sent.")
                        .ask(rate("moorline_hub_received_bytes_total", own, apart), of),
                ],
            },
            Row {
                title: "Queues and methods",
                height: 9,
                panels: vec![
                    Panel::lines(Unit::Count, "Waiting", "Messages of each queue.")
                        .ask("moorline_hub_queue_messages", "{{queue}}"),
                    Panel::lines(Unit::Bytes, "On disk", "Bytes of each queue.")
                        .ask("moorline_hub_queue_bytes", "{{queue}}"),
                    Panel::lines(Unit::Count, "Lost", "Messages that were not delivered, by the reason.")
                        .ask("moorline_hub_queue_lost_messages", "{{queue}} {{reason}}"),
                    Panel::lines(Unit::PerSecond, "Methods", "By what became of them.")
                        .ask(rate("moorline_hub_methods_total", "", "outcome"), "{{outcome}}"),
                ],
            },
        ],
    }
}

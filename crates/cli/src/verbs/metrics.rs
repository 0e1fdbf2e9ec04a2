//! `moorline online-endpoint metrics`: what deployments did of late, once or again and again.

use std::{
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use moorline_core::Name;
use serde_json::{Value, json};

use super::online_endpoint::KIND;
use crate::{
    client::Client,
    live,
    output::{self, Columns, Printing},
    session::Session,
};

/// The server looks as often.
const LOOK: Duration = Duration::from_secs(5);
/// Characters of a trend.
const TREND: usize = 40;
const COLUMNS: Columns = Columns(&[
    ("Deployment", "deployment"),
    ("Metric", "metric"),
    ("Now", "now"),
    ("Lowest", "lowest"),
    ("Highest", "highest"),
    ("Trend", "trend"),
]);
/// What people look at first; the other series are in the JSON.
const SHOWN: &str =
    "request_rate,error_rate,latency_p50,latency_p90,latency_p99,in_flight,replicas_ready,cpu,memory";

#[derive(Debug, Args)]
pub(crate) struct Metrics {
    /// The endpoint's name
    #[arg(short, long, value_name = "NAME")]
    name: Name,
    /// Only this deployment
    #[arg(short, long, alias = "deployment", value_name = "NAME")]
    deployment_name: Option<Name>,
    /// How far back, as in 90s, 15m, 6h or 7d
    #[arg(long, value_name = "TIME", default_value = "15m")]
    from: Span,
    /// Show it again every five seconds, until Ctrl-C
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    printing: Printing,
}

/// A time as a number and a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span(u64);

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "expected a number and s, m, h or d, as in 15m";
        let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or(WRONG)?;
        let unit = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 24 * 3600,
            _ => return Err(WRONG),
        };
        let number: u64 = number.parse().map_err(|_| WRONG)?;
        number
            .checked_mul(unit)
            .filter(|seconds| *seconds > 0)
            .map(Self)
            .ok_or("the time is too long or none")
    }
}

impl Metrics {
    async fn ask(&self, client: &Client, names: Option<&str>) -> anyhow::Result<Value> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut url = client.at(&[KIND, self.name.as_str(), "metrics"]);
        let mut query = url.query_pairs_mut();
        query.append_pair("from", &now.saturating_sub(self.from.0).to_string());
        query.append_pair("to", &now.to_string());
        if let Some(deployment) = &self.deployment_name {
            query.append_pair("deployment", deployment.as_str());
        }
        if let Some(names) = names {
            query.append_pair("names", names);
        }
        drop(query);
        client.get(url).await
    }
}

pub(crate) async fn run(session: &Session, metrics: Metrics) -> anyhow::Result<()> {
    let client = session.client().await?;
    if metrics.watch {
        let title = format!("{}, the last {}", metrics.name, spoken(metrics.from.0 as f64));
        let ask = async || Ok(output::table(&rows(&metrics.ask(&client, Some(SHOWN)).await?), COLUMNS));
        return live::show(session, &title, LOOK, ask).await;
    }
    if !metrics.printing.is_table() {
        let answer = metrics.ask(&client, None).await?;
        return metrics.printing.print(answer, Columns::ANY);
    }
    let answer = metrics.ask(&client, Some(SHOWN)).await?;
    metrics.printing.print(rows(&answer), COLUMNS)
}

/// A row for each series that has a value.
fn rows(answer: &Value) -> Value {
    let row = |series: &Value| {
        let points = series["points"].as_array()?;
        let values: Vec<Option<f64>> = points.iter().map(|point| point[1].as_f64()).collect();
        let known = || values.iter().copied().flatten();
        let (name, unit) = (series["name"].as_str()?, series["unit"].as_str()?);
        let shown =
            |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| show(name, unit, value));
        known().next()?;
        Some(json!({
            "deployment": series["deployment"],
            "metric": name,
            "now": shown(values.last().copied().flatten()),
            "lowest": shown(known().reduce(f64::min)),
            "highest": shown(known().reduce(f64::max)),
            "trend": trend(&values),
        }))
    };
    answer["series"].as_array().into_iter().flatten().filter_map(row).collect()
}

fn show(name: &str, unit: &str, value: f64) -> String {
    match (unit, name) {
        ("s", _) => spoken(value),
        ("bytes", _) if value >= 1e9 => format!("{:.2} GB", value / 1e9),
        ("bytes", _) => format!("{:.1} MB", value / 1e6),
        ("1/s", _) => format!("{value:.1}/s"),
        (_, "error_rate") => format!("{:.1} %", value * 100.0),
        ("cores", _) => format!("{value:.2}"),
        _ => format!("{}", (value * 100.0).round() / 100.0),
    }
}

/// Seconds in the unit that people would say them in.
fn spoken(seconds: f64) -> String {
    match seconds {
        0.0..0.001 => format!("{:.0} µs", seconds * 1e6),
        0.001..1.0 => format!("{:.1} ms", seconds * 1e3),
        1.0..60.0 => format!("{seconds:.1} s"),
        60.0..3600.0 => format!("{:.0} min", seconds / 60.0),
        3600.0..172_800.0 => format!("{:.0} h", seconds / 3600.0),
        _ => format!("{:.0} d", seconds / 86_400.0),
    }
}

/// Bars from nothing to the highest value; a gap where there is none.
fn trend(values: &[Option<f64>]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let each = values.len().div_ceil(TREND).max(1);
    let parts: Vec<Option<f64>> =
        values.chunks(each).map(|part| part.iter().copied().flatten().reduce(f64::max)).collect();
    let highest = parts.iter().copied().flatten().fold(0.0, f64::max);
    let bar = |part: &Option<f64>| match part {
        None => ' ',
        Some(_) if highest <= 0.0 => BARS[0],
        Some(value) => BARS[((value / highest * 7.0).round() as usize).min(7)],
    };
    parts.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_a_number_and_a_unit() {
        let read = |text: &str| text.parse::<Span>().map(|span| span.0);
        assert_eq!(
            [read("90s"), read("15m"), read("6h"), read("7d")],
            [Ok(90), Ok(900), Ok(21_600), Ok(604_800)]
        );
        for bad in
            ["", "m", "15", "1.5h", "-1h", "0s", "5µ", "99999999999999999999d", "18446744073709551615d"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rows_show_what_is_known() {
        let answer = json!({"series": [
            {"name": "request_rate", "deployment": "blue", "unit": "1/s", "points": [[0, 1.0], [5, null], [10, 8.0]]},
            {"name": "latency_p99", "deployment": "blue", "unit": "s", "points": [[0, null], [5, 0.0123], [10, null]]},
            {"name": "memory", "deployment": "blue", "unit": "bytes", "points": [[0, null]]},
        ]});
        let rows = rows(&answer);
        assert_eq!(rows.as_array().unwrap().len(), 2);
        assert_eq!(
            (&rows[0]["now"], &rows[0]["lowest"], &rows[0]["trend"]),
            (&json!("8.0/s"), &json!("1.0/s"), &json!("▂ █"))
        );
        assert_eq!((&rows[1]["now"], &rows[1]["highest"]), (&json!("-"), &json!("12.3 ms")));
    }

    #[test]
    fn a_trend_is_as_wide_as_it_may_be() {
        let values: Vec<Option<f64>> = (0..241).map(|value| Some(f64::from(value))).collect();
        let trend = trend(&values);
        assert!(trend.chars().count() <= TREND, "{trend}");
        assert!(trend.starts_with('▁') && trend.ends_with('█'));
        assert_eq!(super::trend(&[Some(0.0), None]), "▁ ");
    }
}

//! A scorer's metrics, of which a few are sent on.

use std::{net::SocketAddr, time::Duration};

/// A module that does not answer in this time is not waited for.
const WITHIN: Duration = Duration::from_secs(2);
const LONGEST: usize = 1024 * 1024;

/// What a scorer says of its requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Scraped {
    pub(super) requests: f64,
    pub(super) errors: f64,
    pub(super) in_flight: f64,
    pub(super) seconds: f64,
    pub(super) durations: Histogram,
}

/// How many requests took at most so many seconds; in rising order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Histogram(Vec<(f64, f64)>);

impl Histogram {
    fn add(&mut self, bound: f64, count: f64) {
        match self.0.iter_mut().find(|(own, _)| *own == bound) {
            Some((_, own)) => *own += count,
            None => self.0.push((bound, count)),
        }
    }

    /// What has come since `before`; all of it if the module has begun anew.
    pub(super) fn since(&self, before: Option<&Self>) -> Self {
        let Some(before) = before.filter(|before| before.0.len() == self.0.len()) else {
            return self.clone();
        };
        let pairs = self.0.iter().zip(&before.0);
        let new: Vec<(f64, f64)> = pairs.map(|((bound, now), (_, then))| (*bound, now - then)).collect();
        if new.iter().any(|(_, count)| *count < 0.0) { self.clone() } else { Self(new) }
    }

    /// The duration that this part of all requests did not exceed, guessed within its bucket.
    pub(super) fn quantile(&self, part: f64) -> Option<f64> {
        let all = self.0.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
        let (mut below, mut from) = (0.0, 0.0);
        for (bound, count) in &self.0 {
            if *count >= all * part {
                // Beyond the last bound nothing is known but that.
                let inside = if *count > below { (all * part - below) / (count - below) } else { 1.0 };
                return Some(if bound.is_finite() { from + (bound - from) * inside } else { from });
            }
            (below, from) = (*count, *bound);
        }
        None
    }
}

/// Asks a scorer; `None` if it does not say.
pub(super) async fn scrape(client: &reqwest::Client, admin: SocketAddr) -> Option<Scraped> {
    let asked = client.get(format!("http://{admin}/metrics")).timeout(WITHIN).send().await;
    let mut answer = asked.ok().filter(|answer| answer.status().is_success())?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.ok()? {
        body.extend_from_slice(&chunk);
        if body.len() > LONGEST {
            return None;
        }
    }
    Some(read(&String::from_utf8_lossy(&body)))
}

fn read(text: &str) -> Scraped {
    let mut scraped = Scraped::default();
    for line in text.lines().filter(|line| {
        line.starts_with("moorline_requests") || line.starts_with("moorline_request_duration_seconds")
    }) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let Ok(value) = value.parse::<f64>() else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        match name {
            "moorline_requests_total" => {
                scraped.requests += value;
                // Labels come in the order of the alphabet: a version's name cannot come before.
                if labels.starts_with("code=\"5") {
                    scraped.errors += value;
                }
            }
            "moorline_requests_in_flight" => scraped.in_flight += value,
            "moorline_request_duration_seconds_sum" => scraped.seconds += value,
            "moorline_request_duration_seconds_bucket" => {
                let bound = labels.rsplit_once("le=\"").and_then(|(_, rest)| rest.split('"').next());
                if let Some(bound) = bound.and_then(|bound| bound.parse().ok()) {
                    scraped.durations.add(bound, value);
                }
            }
            _ => {}
        }
    }
    scraped.durations.0.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    scraped
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP moorline_requests_total x
moorline_requests_total{code="200",deployment="a code=\"500\" b",endpoint="m",protocol="score"} 90
moorline_requests_total{code="500",deployment="1",endpoint="m",protocol="score"} 7
moorline_requests_total{code="503",deployment="1",endpoint="m",protocol="oip_rest"} 3
moorline_requests_in_flight{deployment="1",endpoint="m"} 2
moorline_request_duration_seconds_bucket{deployment="1",endpoint="m",protocol="score",le="0.001"} 10
moorline_request_duration_seconds_bucket{deployment="1",endpoint="m",protocol="score",le="0.01"} 60
moorline_request_duration_seconds_bucket{deployment="1",endpoint="m",protocol="score",le="+Inf"} 80
moorline_request_duration_seconds_bucket{deployment="1",endpoint="m",protocol="oip_rest",le="0.001"} 0
moorline_request_duration_seconds_bucket{deployment="1",endpoint="m",protocol="oip_rest",le="0.01"} 20
moorline_request_duration_seconds_bucket{deployment="1",endpoint="m",protocol="oip_rest",le="+Inf"} 20
moorline_request_duration_seconds_sum{deployment="1",endpoint="m",protocol="score"} 1.5
moorline_request_duration_seconds_count{deployment="1",endpoint="m",protocol="score"} 80
process_cpu_seconds_total 3
nonsense
"#;

    #[test]
    fn what_a_scorer_says_is_added_up() {
        let scraped = read(TEXT);
        assert_eq!(
            (scraped.requests, scraped.errors, scraped.in_flight, scraped.seconds),
            (100.0, 10.0, 2.0, 1.5)
        );
        assert_eq!(scraped.durations.0, [(0.001, 10.0), (0.01, 80.0), (f64::INFINITY, 100.0)]);
    }

    #[test]
    fn quantiles_are_of_what_came_since() {
        let first = read(TEXT).durations;
        assert!((first.quantile(0.1).unwrap() - 0.001).abs() < 1e-9);
        assert!((first.quantile(0.45).unwrap() - 0.0055).abs() < 1e-9);
        assert_eq!(first.quantile(0.99), Some(0.01));
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert_eq!(first.since(Some(&first)).quantile(0.5), None);
        let mut second = first.clone();
        for (_, count) in &mut second.0 {
            *count += 4.0;
        }
        assert_eq!(second.since(Some(&first)).0, [(0.001, 4.0), (0.01, 4.0), (f64::INFINITY, 4.0)]);
        // It counts less than before: it has begun anew.
        assert_eq!(first.since(Some(&second)), first);
    }
}

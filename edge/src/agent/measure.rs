//! What the device measures, every now and then: its modules' own metrics, their processes, the hub's queues.

mod machine;
mod scrape;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;

use self::{
    machine::Machine,
    scrape::{Histogram, Scraped},
};
use super::{gateway::Gateway, runs::Runs};
use crate::{
    containers::{ContainerView, Usage},
    metrics::{DeviceNumbers, ModuleNumbers, Snapshot},
    modules::{ModuleView, RuntimeStatus},
    releases::Releases,
};

/// How often it may be measured.
pub const PERIODS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);

/// What is measured.
pub(super) struct Measured {
    pub(super) runs: Runs,
    pub(super) releases: Arc<Releases>,
    pub(super) quota: u64,
    pub(super) gateway: Option<Arc<Gateway>>,
}

/// Measures for ever. Only the newest is kept: what was measured while there was no connection is of no use.
pub(super) async fn keep(measured: Measured, period: Duration, newest: watch::Sender<Option<Snapshot>>) {
    let mut often = tokio::time::interval(period.clamp(*PERIODS.start(), *PERIODS.end()));
    often.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // To processes of this machine, never through a proxy.
    let client = match reqwest::Client::builder().no_proxy().build() {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "nothing is measured");
            return std::future::pending().await;
        }
    };
    let begun = Instant::now();
    let mut before = BTreeMap::new();
    loop {
        often.tick().await;
        let mut snapshot = Box::pin(measured.look(&client, &mut before)).await;
        snapshot.device[0] = Some(begun.elapsed().as_secs_f64());
        newest.send_replace(Some(snapshot));
    }
}

impl Measured {
    /// `before` are the durations of each module's requests when this was last done.
    async fn look(&self, client: &reqwest::Client, before: &mut BTreeMap<String, Histogram>) -> Snapshot {
        let views = self.runs.modules.views();
        let groups: Vec<u32> = views.values().filter_map(|view| view.process).collect();
        let releases = Arc::clone(&self.releases);
        let looked = tokio::task::spawn_blocking(move || (Machine::look(&groups), releases.used().ok()));
        let (machine, used) = looked.await.unwrap_or_default();
        let mut modules = BTreeMap::new();
        for (name, view) in &views {
            let scraped = match view.admin {
                Some(admin) => scrape::scrape(client, admin).await,
                None => None,
            };
            let mut numbers = numbers(view, scraped.as_ref(), before.get(name), &machine);
            if view.container.is_some() {
                taken(&mut numbers, self.runs.modules.usage(name).await);
            }
            modules.insert(name.clone(), numbers);
            match scraped {
                Some(scraped) => before.insert(name.clone(), scraped.durations),
                None => before.remove(name),
            };
        }
        before.retain(|name, _| views.contains_key(name));
        for (name, view) in self.runs.container_views() {
            let usage = match &self.runs.containers {
                Some(containers) => containers.usage(&name).await,
                None => None,
            };
            modules.insert(name, container_numbers(&view, usage));
        }
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        Snapshot { at, device: self.device(&machine, used), modules }
    }

    fn device(&self, machine: &Machine, used: Option<u64>) -> DeviceNumbers {
        let own = machine.group(std::process::id());
        let backlog = self.gateway.as_ref().map(|gateway| gateway.hub().backlog());
        let of_hub =
            |number: fn(&crate::hub::Backlog) -> u64| backlog.as_ref().map(|backlog| number(backlog) as f64);
        [
            None,
            own.map(|own| own.cpu_seconds),
            own.map(|own| own.resident_bytes),
            machine.memory_bytes,
            machine.available_bytes,
            machine.load,
            of_hub(|backlog| backlog.upstream),
            of_hub(|backlog| backlog.bytes),
            of_hub(|backlog| backlog.lost),
            used.map(|used| used as f64),
            Some(self.quota as f64),
            std::thread::available_parallelism().ok().map(|processors| processors.get() as f64),
            of_hub(|backlog| backlog.unrouted),
        ]
    }
}

/// Nobody knows how its requests are measured.
fn container_numbers(view: &ContainerView, usage: Option<Usage>) -> ModuleNumbers {
    let mut numbers = ModuleNumbers::default();
    numbers[0] = Some(f64::from(u8::from(view.status == RuntimeStatus::Running)));
    numbers[1] = Some(f64::from(view.restarts));
    taken(&mut numbers, usage);
    numbers
}

fn taken(numbers: &mut ModuleNumbers, usage: Option<Usage>) {
    numbers[8] = usage.map(|usage| usage.cpu_seconds);
    numbers[9] = usage.map(|usage| usage.memory_bytes);
}

fn numbers(
    view: &ModuleView,
    scraped: Option<&Scraped>,
    before: Option<&Histogram>,
    machine: &Machine,
) -> ModuleNumbers {
    let group = view.process.and_then(|process| machine.group(process));
    let since = scraped.map(|scraped| scraped.durations.since(before));
    let quantile = |part: f64| since.as_ref().and_then(|since| since.quantile(part));
    [
        Some(f64::from(u8::from(view.status == RuntimeStatus::Running))),
        Some(f64::from(view.restarts)),
        scraped.map(|scraped| scraped.requests),
        scraped.map(|scraped| scraped.errors),
        scraped.map(|scraped| scraped.seconds),
        quantile(0.5),
        quantile(0.99),
        scraped.map(|scraped| scraped.in_flight),
        group.map(|group| group.cpu_seconds),
        group.map(|group| group.resident_bytes),
    ]
}

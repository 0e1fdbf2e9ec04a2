//! Deletion of endpoints and deployments: what is marked here, the reconciler drains and removes.

use moorline_core::{DeploymentId, Name};
use moorline_store::{Record, RecordKind, StoreError};

use super::{stored, to_json};
use crate::{
    control::Control,
    operations::OperationKind,
    problem::ApiError,
    reconcile,
    status::{DeploymentBody, EndpointBody, split_record_name},
};

/// Marks an endpoint and its deployments; the operation that ends when all of it is gone.
pub(super) async fn delete_endpoint(
    control: &Control,
    workspace: &Name,
    endpoint: &Name,
    generation: Option<u64>,
) -> Result<String, ApiError> {
    let store = &control.store;
    let operation = loop {
        let record = store.record(workspace, RecordKind::Endpoint, endpoint.as_str()).await?;
        let mut body: EndpointBody = stored(&record.name, record.body)?;
        if body.deleting
            && let Some(operation) = body.operation
        {
            break operation;
        }
        let operation =
            control.operations.begin(workspace, OperationKind::DeleteEndpoint, endpoint.as_str()).await?;
        body.deleting = true;
        body.operation = Some(operation.clone());
        let expected = generation.or(Some(record.generation));
        let marked = store
            .update_record(workspace, RecordKind::Endpoint, endpoint.as_str(), expected, to_json(&body)?)
            .await;
        match marked {
            Ok(_) => break operation,
            Err(error) => {
                let again = generation.is_none() && matches!(error, StoreError::Stale { .. });
                let error = ApiError::from(error);
                control.operations.fail(&operation, error.class(), error.detail(), &[]).await;
                if !again {
                    return Err(error);
                }
            }
        }
    };
    mark_deployments(control, workspace, endpoint).await?;
    control.reconciler.nudge_endpoint(workspace.clone(), endpoint.clone());
    Ok(operation)
}

/// Marks every deployment of an endpoint that is being deleted.
pub(super) async fn mark_deployments(
    control: &Control,
    workspace: &Name,
    endpoint: &Name,
) -> Result<(), ApiError> {
    let below = control.store.deployments_of(workspace, endpoint).await?;
    for record in below {
        mark_deployment(control, record, None).await?;
    }
    Ok(())
}

/// Marks one deployment, however often somebody else changes it meanwhile, and has the reconciler look at it.
async fn mark_deployment(
    control: &Control,
    mut record: Record,
    operation: Option<&str>,
) -> Result<(), ApiError> {
    let (store, name) = (&control.store, record.name.clone());
    loop {
        let mut body: DeploymentBody = stored(&name, record.body)?;
        if body.deleting {
            break;
        }
        body.deleting = true;
        body.operation = operation.map(ToOwned::to_owned);
        let marked = store
            .update_record(
                &record.workspace,
                RecordKind::Deployment,
                &name,
                Some(record.generation),
                to_json(&body)?,
            )
            .await;
        match marked {
            Ok(_) => break,
            Err(StoreError::NotFound { .. }) => return Ok(()),
            Err(StoreError::Stale { .. }) => {
                record = store.record(&record.workspace, RecordKind::Deployment, &name).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    control.operations.supersede(&record.workspace, &name, operation.unwrap_or_default()).await;
    if let Some((endpoint, deployment)) = split_record_name(&name) {
        control.reconciler.nudge(DeploymentId { workspace: record.workspace, endpoint, deployment });
    }
    Ok(())
}

/// Marks one deployment; the operation that ends when it is gone.
pub(super) async fn delete_deployment(
    control: &Control,
    record: Record,
    generation: Option<u64>,
) -> Result<String, ApiError> {
    let body: DeploymentBody = stored(&record.name, record.body.clone())?;
    if body.deleting
        && let Some(operation) = body.operation
    {
        return Ok(operation);
    }
    if let Some(expected) = generation
        && expected != record.generation
    {
        return Err(StoreError::Stale {
            noun: "deployment",
            name: record.name,
            expected,
            actual: record.generation,
        }
        .into());
    }
    let operation =
        control.operations.begin(&record.workspace, OperationKind::DeleteDeployment, &record.name).await?;
    if let Err(error) = mark_deployment(control, record, Some(&operation)).await {
        control.operations.fail(&operation, error.class(), error.detail(), &[]).await;
        return Err(error);
    }
    Ok(operation)
}

/// Takes up what the last server left half-done: deletions of endpoints whose deployments it had not all marked,
/// rollouts whose end it had written down and not told, and operations that nothing refers to, because it ended before it
/// had written what they were for.
pub(crate) async fn recover(control: &Control) -> Result<(), ApiError> {
    let mut wanted = std::collections::HashSet::new();
    for record in control.store.records(RecordKind::Endpoint, None).await? {
        let body: EndpointBody = stored(&record.name, record.body)?;
        if let Some(rollout) = &body.rollout {
            reconcile::tell_outcome(&control.operations, rollout).await;
        }
        wanted.extend(body.running_rollout().map(|rollout| rollout.operation.clone()));
        wanted.extend(body.operation);
        if body.deleting
            && let Ok(endpoint) = record.name.parse()
        {
            mark_deployments(control, &record.workspace, &endpoint).await?;
        }
    }
    for record in control.store.records(RecordKind::Deployment, None).await? {
        let body: DeploymentBody = stored(&record.name, record.body)?;
        wanted.extend(body.operation);
    }
    for operation in control.operations.all_running() {
        if wanted.contains(&operation.id) {
            continue;
        }
        let deletion = [OperationKind::DeleteDeployment, OperationKind::DeleteEndpoint]
            .iter()
            .any(|kind| kind.as_str() == operation.kind);
        // What a deletion was for is gone with it; anything else had not begun.
        if deletion {
            control.operations.succeed(&operation.id).await;
        } else {
            let message = "the server ended before this was stored, and nothing asks for it any more";
            control.operations.fail(&operation.id, moorline_core::ErrorClass::Cancelled, message, &[]).await;
        }
    }
    Ok(())
}

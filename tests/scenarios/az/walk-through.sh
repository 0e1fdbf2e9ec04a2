#!/usr/bin/env bash
# A deployment's life, as somebody who uses Azure ML would write it down. The test runs it with `az` replaced by
# `moorline`, and with nothing else changed.
set -euo pipefail

export ENDPOINT_NAME=endpt-weather

# Create the endpoint, and look at it.
az ml online-endpoint create --name $ENDPOINT_NAME -f endpoint.yml
az ml online-endpoint show -n $ENDPOINT_NAME --query name -o tsv
endpoint_status=$(az ml online-endpoint show --name $ENDPOINT_NAME --query "provisioning_state" -o tsv)
[ "$endpoint_status" = "Succeeded" ]

# The first deployment takes all the traffic.
az ml online-deployment create --name blue --endpoint $ENDPOINT_NAME -f blue-deployment.yml --all-traffic
deploy_status=$(az ml online-deployment show --name blue --endpoint-name $ENDPOINT_NAME --query "provisioning_state" -o tsv)
[ "$deploy_status" = "Succeeded" ]
az ml online-endpoint invoke --name $ENDPOINT_NAME --request-file sample-request.json | tee answer.txt
grep -q 'warm' answer.txt

# More of it.
az ml online-deployment update --name blue --endpoint-name $ENDPOINT_NAME --set instance_count=2
[ "$(az ml online-deployment show -n blue -e $ENDPOINT_NAME --query instance_count -o tsv)" = "2" ]

# A second one, without traffic, asked by its name.
az ml online-deployment create --name green --endpoint-name $ENDPOINT_NAME -f green-deployment.yml
[ "$(az ml online-endpoint show -n $ENDPOINT_NAME --query 'traffic.blue' -o tsv)" = "100" ]
az ml online-endpoint invoke --name $ENDPOINT_NAME --deployment-name green --request-file sample-request.json | tee answer.txt
grep -q 'green' answer.txt

# The scoring URI, with the key.
ENDPOINT_KEY=$(az ml online-endpoint get-credentials -n $ENDPOINT_NAME -o tsv --query primaryKey)
SCORING_URI=$(az ml online-endpoint show -n $ENDPOINT_NAME -o tsv --query scoring_uri)
curl --silent --fail --request POST "$SCORING_URI" --header "Authorization: Bearer $ENDPOINT_KEY" \
  --header 'Content-Type: application/json' --data @sample-request.json | tee answer.txt
grep -q 'warm' answer.txt
curl --silent --fail --request POST "$SCORING_URI" --header "Authorization: Bearer $ENDPOINT_KEY" \
  --header 'Content-Type: application/json' --header 'azureml-model-deployment: green' --data @sample-request.json | tee answer.txt
grep -q 'green' answer.txt
[ "$(curl --silent --output /dev/null --write-out '%{http_code}' --data @sample-request.json "$SCORING_URI")" = "401" ]

# A copy of ten percent of the requests goes to the second.
az ml online-endpoint update --name $ENDPOINT_NAME --mirror-traffic "green=10"
for i in {1..20} ; do
  az ml online-endpoint invoke --name $ENDPOINT_NAME --request-file sample-request.json > /dev/null
done
az ml online-endpoint update --name $ENDPOINT_NAME --mirror-traffic "green=0"
az ml online-deployment get-logs --name green --endpoint-name $ENDPOINT_NAME --lines 200 | tee logs.txt
grep -q 'init done' logs.txt

# Some of the traffic, then all of it.
az ml online-endpoint update --name $ENDPOINT_NAME --traffic "blue=90 green=10"
[ "$(az ml online-endpoint show -n $ENDPOINT_NAME --query 'traffic.green' -o tsv)" = "10" ]
az ml online-endpoint update --name $ENDPOINT_NAME --traffic "blue=0 green=100"
az ml online-endpoint invoke --name $ENDPOINT_NAME --request-file sample-request.json | tee answer.txt
grep -q 'green' answer.txt

az ml online-deployment delete --name blue --endpoint $ENDPOINT_NAME --yes --no-wait
az ml online-endpoint delete --name $ENDPOINT_NAME --yes
if az ml online-endpoint show --name $ENDPOINT_NAME ; then exit 1 ; fi
echo "the whole life was seen"

{{/* What things of a release are called, and what is decided once for all templates. */}}

{{- define "moorline.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "moorline.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "moorline.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "moorline.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "moorline.selector" -}}
app.kubernetes.io/name: {{ include "moorline.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "moorline.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "moorline.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "moorline.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "moorline.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "moorline.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether nothing that has to be kept lies in the home. */}}
{{- define "moorline.stateless" -}}
{{- if and .Values.database.existingSecret .Values.blobs.s3.bucket .Values.keys.existingSecret }}true{{ end }}
{{- end }}

{{/* Two servers of one database undo each other's work: with one that both can reach, a Lease says which one works. */}}
{{- define "moorline.elects" -}}
{{- if .Values.database.existingSecret }}true{{ end }}
{{- end }}

{{/* Who may be sent requests. */}}
{{- define "moorline.leader" -}}
{{ include "moorline.selector" . }}
{{- if include "moorline.elects" . }}
moorline.io/role: leader
{{- end }}
{{- end }}

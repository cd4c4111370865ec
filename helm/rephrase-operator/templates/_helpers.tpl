{{- define "rephrase-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "rephrase-operator.fullname" -}}
{{- $name := include "rephrase-operator.name" . }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $full .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* As a Service may be called: from a letter on and without dots, where a release needs neither. */}}
{{- define "rephrase-operator.serviceName" -}}
{{- $name := include "rephrase-operator.fullname" . | replace "." "-" }}
{{- ternary $name (printf "r%s" $name) (regexMatch "^[a-z]" $name) | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "rephrase-operator.serviceAccountName" -}}
{{- $created := ternary (include "rephrase-operator.fullname" .) "default" .Values.serviceAccount.create }}
{{- default $created .Values.serviceAccount.name }}
{{- end }}

{{/* Name of the ConfigMap with the price list; empty if there is none. */}}
{{- define "rephrase-operator.pricesConfigMap" -}}
{{- $own := ternary (printf "%s-prices" (include "rephrase-operator.fullname" .)) "" (gt (len .Values.prices.pricePerGPUHour) 0) }}
{{- default $own .Values.prices.configMap }}
{{- end }}

{{/* What never changes between upgrades, since a Deployment's selector may not. */}}
{{- define "rephrase-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "rephrase-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "rephrase-operator.labels" -}}
{{ include "rephrase-operator.selectorLabels" . }}
{{ include "rephrase-operator.commonLabels" . }}
{{- end }}

{{- define "rephrase-operator.commonLabels" -}}
app.kubernetes.io/part-of: rephrase
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Of the pods of `helm test`, which nothing else selects. */}}
{{- define "rephrase-operator.testLabels" -}}
app.kubernetes.io/name: {{ include "rephrase-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: test
{{- end }}

{{/* An image; takes a list of one of .Values.images and the root. */}}
{{- define "rephrase-operator.image" -}}
{{- $image := index . 0 }}
{{- $tag := default (index . 1).Chart.AppVersion $image.tag }}
{{- $image.repository }}{{ ternary (printf "@%s" $image.digest) (printf ":%s" $tag) (ne $image.digest "") }}
{{- end }}

{{/* What the operator may do with objects in a namespace; tests/contract/test_chart.py has the same table. */}}
{{- define "rephrase-operator.namespacedRules" -}}
- apiGroups: [rephrase.io]
  resources: [rephraseruns]
  verbs: [get, list, watch, patch, delete]   # delete: spec.ttlSecondsAfterFinished
- apiGroups: [rephrase.io]
  resources: [rephraseruns/status]
  verbs: [patch]
# asked for where an owner reference with blockOwnerDeletion needs it, as on OpenShift
- apiGroups: [rephrase.io]
  resources: [rephraseruns/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create{{ if .Values.rbac.readEvents }}, list{{ end }}]
{{- end }}

{{/* Ends the rendering where a monitor is wanted and the cluster cannot have it; takes a list of value, kind, root. */}}
{{- define "rephrase-operator.needsMonitor" -}}
{{- $value := index . 0 }}
{{- $api := printf "monitoring.coreos.com/v1/%s" (index . 1) }}
{{- if not ((index . 2).Capabilities.APIVersions.Has $api) }}
{{- fail (printf "%s.enabled: the cluster has no %s; install the Prometheus Operator, or set it to false (`helm template` asks no cluster: add --api-versions %s)" $value $api $api) }}
{{- end }}
{{- end }}

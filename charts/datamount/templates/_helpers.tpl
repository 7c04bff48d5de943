{{- define "datamount.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "datamount.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "datamount.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "datamount.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "datamount.controller" -}}
{{ include "datamount.fullname" . }}-controller
{{- end -}}

{{- define "datamount.selectorLabels" -}}
app.kubernetes.io/name: {{ include "datamount.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end -}}

{{- define "datamount.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "datamount.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "datamount.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "datamount.controller" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{/* Takes (list $ image). */}}
{{- define "datamount.image" -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default (index . 0).Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "datamount.tlsSecret" -}}
{{ include "datamount.controller" . }}-tls
{{- end -}}

{{- define "datamount.caConfigMap" -}}
{{ include "datamount.fullname" . }}-ca
{{- end -}}

{{- define "datamount.policyConfigMap" -}}
{{- .Values.existingPolicyConfigMap | default (printf "%s-policy" (include "datamount.fullname" .)) -}}
{{- end -}}

{{/* What the controller reads: the chart's own facts, then the operator's further settings. */}}
{{- define "datamount.controllerSettings" -}}
{{- $tls := dict "mode" (ternary "files" "self-signed" (eq .Values.certificates.mode "cert-manager")) -}}
{{- $_ := set $tls "folder" "/etc/datamount/tls" -}}
{{- $_ := set $tls "secret" (include "datamount.tlsSecret" .) -}}
{{- $_ := set $tls "webhook" (include "datamount.fullname" .) -}}
{{- $_ := set $tls "ca_config_map" (include "datamount.caConfigMap" .) -}}
{{- $_ := set $tls "days" (int .Values.certificates.days) -}}
{{- $settings := dict "namespace" .Release.Namespace "service" (include "datamount.controller" .) -}}
{{- $_ := set $settings "installation" (printf "%s/%s" .Release.Namespace .Release.Name) -}}
{{- $_ := set $settings "namespaces" .Values.sessionNamespaces -}}
{{- $_ := set $settings "tls" $tls -}}
{{- $_ := set $settings "inject" "/etc/datamount/settings/inject.yaml" -}}
{{- $_ := set $settings "policy" "/etc/datamount/policy/policy.yaml" -}}
{{- with .Values.store -}}{{- $_ := set $settings "store" . -}}{{- end -}}
{{- /* Not mergeOverwrite: it takes false and 0 for "not set". */ -}}
{{- range $key, $value := .Values.controller -}}{{- $_ := set $settings $key $value -}}{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{/* What `inject` reads. A cluster before 1.29 drops the restartPolicy of an init container, and the sidecar would then
     keep the notebook from ever starting: so the form of the sidecar follows the cluster's version. */}}
{{- define "datamount.injectSettings" -}}
{{- $settings := dict "image" (include "datamount.image" (list . .Values.image.session)) -}}
{{- $_ := set $settings "image_pull_policy" .Values.image.session.pullPolicy -}}
{{- $_ := set $settings "controller_url" (printf "https://%s.%s.svc" (include "datamount.controller" .) .Release.Namespace) -}}
{{- $_ := set $settings "ca_config_map" (include "datamount.caConfigMap" .) -}}
{{- $_ := set $settings "native_sidecar" (semverCompare ">=1.29.0-0" .Capabilities.KubeVersion.Version) -}}
{{- $_ := set $settings "component" (.Values.webhook.podLabels.component | default "singleuser-server") -}}
{{- range $key, $value := .Values.inject -}}{{- $_ := set $settings $key $value -}}{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

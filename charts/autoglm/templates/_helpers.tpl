{{/* Names. Each is cut so that the longest suffix still fits into 63 characters. */}}
{{- define "autoglm.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "autoglm.fullname" -}}
{{- $name := include "autoglm.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "autoglm.operator" -}}
{{- printf "%s-operator" (include "autoglm.fullname" .) }}
{{- end }}

{{- define "autoglm.gateway" -}}
{{- printf "%s-gateway" (include "autoglm.fullname" .) }}
{{- end }}

{{- define "autoglm.operator.account" -}}
{{- .Values.operator.serviceAccount.name | default (include "autoglm.operator" .) }}
{{- end }}

{{- define "autoglm.gateway.account" -}}
{{- .Values.gateway.serviceAccount.name | default (include "autoglm.gateway" .) }}
{{- end }}

{{- define "autoglm.token" -}}
{{- .Values.gateway.token.existingSecret | default (printf "%s-token" (include "autoglm.gateway" .)) }}
{{- end }}

{{/* Labels of every object, and those that select the pods of one component: (list . "operator"). */}}
{{- define "autoglm.labels" -}}
{{- with .Values.commonLabels }}{{ toYaml . }}
{{ end -}}
app.kubernetes.io/name: {{ include "autoglm.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: autoglm
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "autoglm.selector" -}}
{{- $top := index . 0 -}}
app.kubernetes.io/name: {{ include "autoglm.name" $top }}
app.kubernetes.io/instance: {{ $top.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* The metadata of one object: (list . NAME COMPONENT). */}}
{{- define "autoglm.metadata" -}}
{{- $top := index . 0 -}}
name: {{ index . 1 }}
namespace: {{ $top.Release.Namespace }}
labels:
  {{- include "autoglm.labels" $top | nindent 2 }}
  app.kubernetes.io/component: {{ index . 2 }}
{{- end }}

{{- define "autoglm.image" -}}
{{- $top := index . 0 -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default $top.Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* The Pod Security Standard "restricted", for pods and for containers. */}}
{{- define "autoglm.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "autoglm.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Where pods run: (list . PODS COMPONENT). Without an affinity of the user's, pods of one component avoid one node. */}}
{{- define "autoglm.placement" -}}
{{- $top := index . 0 -}}
{{- $pods := index . 1 -}}
{{- with $top.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $pods.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $pods.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $pods.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
affinity:
  {{- if $pods.affinity }}
  {{- toYaml $pods.affinity | nindent 2 }}
  {{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "autoglm.selector" (list $top (index . 2)) | nindent 14 }}
  {{- end }}
{{- end }}

{{/* A PodDisruptionBudget: (list . NAME COMPONENT BUDGET). */}}
{{- define "autoglm.budget" -}}
{{- $top := index . 0 -}}
{{- $budget := index . 3 -}}
{{- if $budget.enabled }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "autoglm.metadata" (list $top (index . 1) (index . 2)) | nindent 2 }}
spec:
  maxUnavailable: {{ $budget.maxUnavailable }}
  # A pod that is not ready protects nothing: it may go, or a drain of its node would wait for ever.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "autoglm.selector" (list $top (index . 2)) | nindent 6 }}
{{- end }}
{{- end }}

{{/* A ServiceAccount: (list . NAME COMPONENT ACCOUNT). */}}
{{- define "autoglm.account" -}}
{{- $top := index . 0 -}}
{{- $account := index . 3 -}}
{{- if $account.create }}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "autoglm.metadata" (list $top (index . 1) (index . 2)) | nindent 2 }}
  {{- with $account.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
{{- end }}

package main

import (
	"encoding/json"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// review answers an AdmissionReview with what decide says about the object.
func review(decide func(site *unstructured.Unstructured) *admissionv1.AdmissionResponse) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var ar admissionv1.AdmissionReview
		site := &unstructured.Unstructured{}
		if err := json.NewDecoder(r.Body).Decode(&ar); err != nil || ar.Request == nil {
			http.Error(w, "not an AdmissionReview", http.StatusBadRequest)
			return
		}
		if err := site.UnmarshalJSON(ar.Request.Object.Raw); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		ar.Response = decide(site)
		ar.Response.UID = ar.Request.UID
		ar.Request = nil
		_ = json.NewEncoder(w).Encode(ar)
	}
}

// setDefaults gives a Site one replica, and says which operator has seen it.
func (o *operator) setDefaults(site *unstructured.Unstructured) *admissionv1.AdmissionResponse {
	patch := []map[string]any{}
	if _, set, _ := unstructured.NestedInt64(site.Object, "spec", "replicas"); !set {
		patch = append(patch, map[string]any{"op": "add", "path": "/spec/replicas", "value": 1})
	}
	b, _ := json.Marshal(patch)
	json := admissionv1.PatchTypeJSONPatch
	return &admissionv1.AdmissionResponse{Allowed: true, Patch: b, PatchType: &json}
}

// validate refuses a Site that says nothing.
func (o *operator) validate(site *unstructured.Unstructured) *admissionv1.AdmissionResponse {
	if text, _, _ := unstructured.NestedString(site.Object, "spec", "text"); text == "" {
		return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: "a Site without a text says nothing (operator " + o.version + ")", Code: http.StatusUnprocessableEntity}}
	}
	return &admissionv1.AdmissionResponse{Allowed: true}
}

// convert renames between v1beta1 (message) and v1 (text).
func convert(w http.ResponseWriter, r *http.Request) {
	var cr apiextensionsv1.ConversionReview
	if err := json.NewDecoder(r.Body).Decode(&cr); err != nil || cr.Request == nil {
		http.Error(w, "not a ConversionReview", http.StatusBadRequest)
		return
	}
	cr.Response = &apiextensionsv1.ConversionResponse{UID: cr.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range cr.Request.Objects {
		site := &unstructured.Unstructured{}
		if err := site.UnmarshalJSON(raw.Raw); err != nil {
			cr.Response.Result = metav1.Status{Status: metav1.StatusFailure, Message: err.Error()}
			break
		}
		from, to := "message", "text"
		if cr.Request.DesiredAPIVersion == group+"/v1beta1" {
			from, to = to, from
		}
		if spec, ok := site.Object["spec"].(map[string]any); ok && spec[from] != nil {
			spec[to] = spec[from]
			delete(spec, from)
		}
		site.SetAPIVersion(cr.Request.DesiredAPIVersion)
		cr.Response.ConvertedObjects = append(cr.Response.ConvertedObjects, runtime.RawExtension{Object: site})
	}
	cr.Request = nil
	_ = json.NewEncoder(w).Encode(cr)
}

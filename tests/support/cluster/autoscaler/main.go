// autoscaler is Karpenter with machines that are Node objects only (its KWOK provider), and with
// stock-outs: what the file STOCKOUTS names, one a line, cannot be had: "spot" and "on-demand", or one
// offering as "instance-type/zone/capacity-type". As at a cloud, Karpenter learns of it by asking, and asks
// again only when STOCKOUT_TTL has passed.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/samber/lo"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	kwok "sigs.k8s.io/karpenter/kwok/cloudprovider"
	v1 "sigs.k8s.io/karpenter/pkg/apis/v1"
	"sigs.k8s.io/karpenter/pkg/cloudprovider"
	"sigs.k8s.io/karpenter/pkg/cloudprovider/overlay"
	"sigs.k8s.io/karpenter/pkg/controllers"
	"sigs.k8s.io/karpenter/pkg/controllers/node/health"
	"sigs.k8s.io/karpenter/pkg/controllers/state"
	"sigs.k8s.io/karpenter/pkg/operator"
	"sigs.k8s.io/karpenter/pkg/scheduling"
)

// cloud runs out of machines; everything else is KWOK's.
type cloud struct {
	*kwok.CloudProvider
	client client.Client
	types  []*cloudprovider.InstanceType
	file   string
	ttl    time.Duration

	lock    sync.Mutex
	refused map[string]time.Time // offering -> until when Karpenter believes that there is none
}

// Create makes a machine of what is in stock.
func (c *cloud) Create(ctx context.Context, claim *v1.NodeClaim) (*v1.NodeClaim, error) {
	out, err := c.stockouts()
	if err != nil {
		return nil, err
	}
	wanted := scheduling.NewNodeSelectorRequirementsWithMinValues(claim.Spec.Requirements...)
	var left []*cloudprovider.InstanceType
	var none []string
	for _, kind := range c.types {
		if !wanted.Get(corev1.LabelInstanceTypeStable).Has(kind.Name) {
			continue
		}
		stock := only(kind, func(offering *cloudprovider.Offering) bool {
			name := nameOf(kind, offering)
			if !out[name] && !out[offering.CapacityType()] {
				return true
			}
			if wanted.IsCompatible(offering.Requirements, scheduling.AllowUndefinedWellKnownLabels) {
				none = append(none, name)
			}
			return false
		})
		if stock.Offerings.Available().HasCompatible(wanted) {
			left = append(left, stock)
		}
	}
	c.remember(none)
	if len(left) == 0 {
		return nil, cloudprovider.NewInsufficientCapacityError(
			fmt.Errorf("no capacity is left for %s", strings.Join(none, ", ")))
	}
	narrowed := claim.DeepCopy()
	for i, requirement := range narrowed.Spec.Requirements {
		if requirement.Key == corev1.LabelInstanceTypeStable {
			narrowed.Spec.Requirements[i].Values = lo.Map(left, func(kind *cloudprovider.InstanceType, _ int) string {
				return kind.Name
			})
		}
	}
	return kwok.NewCloudProvider(ctx, c.client, left).Create(ctx, narrowed)
}

// GetInstanceTypes says what Karpenter has not been refused lately.
func (c *cloud) GetInstanceTypes(context.Context, *v1.NodePool) ([]*cloudprovider.InstanceType, error) {
	c.lock.Lock()
	defer c.lock.Unlock()
	now := time.Now()
	return lo.Map(c.types, func(kind *cloudprovider.InstanceType, _ int) *cloudprovider.InstanceType {
		return only(kind, func(offering *cloudprovider.Offering) bool {
			return now.After(c.refused[nameOf(kind, offering)])
		})
	}), nil
}

func (c *cloud) remember(refused []string) {
	c.lock.Lock()
	defer c.lock.Unlock()
	for _, name := range refused {
		c.refused[name] = time.Now().Add(c.ttl)
	}
}

func (c *cloud) stockouts() (map[string]bool, error) {
	text, err := os.ReadFile(c.file)
	if err != nil {
		return nil, fmt.Errorf("reading what is out of stock: %w", err)
	}
	return lo.SliceToMap(strings.Fields(string(text)), func(line string) (string, bool) { return line, true }), nil
}

// only gives a copy of an instance type, on which nothing else is available.
func only(kind *cloudprovider.InstanceType, available func(*cloudprovider.Offering) bool) *cloudprovider.InstanceType {
	copied := kind.DeepCopy()
	for _, offering := range copied.Offerings {
		offering.Available = offering.Available && available(offering)
	}
	return copied
}

func nameOf(kind *cloudprovider.InstanceType, offering *cloudprovider.Offering) string {
	return strings.Join([]string{kind.Name, offering.Zone(), offering.CapacityType()}, "/")
}

func main() {
	ctx, op := operator.NewOperator()
	types := lo.Must(kwok.ConstructInstanceTypes(ctx))
	bare := &cloud{
		CloudProvider: kwok.NewCloudProvider(ctx, op.GetClient(), types),
		client:        op.GetClient(),
		types:         types,
		file:          os.Getenv("STOCKOUTS"),
		ttl:           lo.Must(time.ParseDuration(os.Getenv("STOCKOUT_TTL"))),
		refused:       map[string]time.Time{},
	}
	provider := overlay.Decorate(bare, op.GetClient(), op.InstanceTypeStore)
	repairs := state.WithRepairPolicyMatcher(lo.Must(health.NewRepairPolicyMatcher(ctx, provider)))
	cluster := state.NewCluster(op.Clock, op.GetClient(), provider, repairs)
	op.WithControllers(ctx, controllers.NewControllers(
		ctx, op.Manager, op.Clock, op.GetClient(), op.EventRecorder, provider, bare, cluster,
		op.InstanceTypeStore, op.PredictionStore,
	)...).Start(ctx)
}

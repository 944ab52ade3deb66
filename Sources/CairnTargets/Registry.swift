package import CairnEngine

/// Every target, in registration order; `targets` prints the last registered first, as the kernel does.
package let allTargets: [TargetType] = [
    ErrorTarget.type, Linear.type, Striped.type, Zero.type, Delay.type, Flakey.type, SSDCacheTarget.type, WriteboostTarget.type,
    WriteboostManager.type,
]

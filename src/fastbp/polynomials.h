/* Written by tools/fit_polynomials.py: coefficients, lowest power first, and the largest relative error of
 * the function that they are for.  Constants are macros, so that the compiler folds them. */
#ifndef FASTBP_POLYNOMIALS_H
#define FASTBP_POLYNOMIALS_H

#ifdef FASTBP_F32
/* expm1(r) = r + r^2 P(r), |r| <= log(2) / 2; 2^-26.13 */
#define EXP_P_TERMS 5
static const real EXP_P[] = {
    0.4999999701976776f,
    0.1666654646396637f,
    0.041667450219392776f,
    0.00836627185344696f,
    0.001386934658512473f,
};
/* log((1 + s) / (1 - s)) = 2 s + s^3 R(s^2), |s| <= 3 - sqrt 8; 2^-30.21 */
#define LOG_R_TERMS 3
static const real LOG_R[] = {
    0.6666677594184875f,
    0.3997759222984314f,
    0.2987063527107239f,
};
/* the same for |s| <= 1/3; 2^-33.01 */
#define LOG_WIDE_R_TERMS 5
static const real LOG_WIDE_R[] = {
    0.6666667461395264f,
    0.3999894857406616f,
    0.28615206480026245f,
    0.21444056928157806f,
    0.24244172871112823f,
};
/* exp(t^2/2) Phi(-t) = P(t) / Q(t), t >= 0; 2^-24.52 */
#define MILLS_P_TERMS 5
static const real MILLS_P[] = {
    0.5f,
    0.43929797410964966f,
    0.18398025631904602f,
    0.04088495671749115f,
    0.004153809510171413f,
};
/* its denominator */
#define MILLS_Q_TERMS 6
static const real MILLS_Q[] = {
    1.0f,
    1.676481008529663f,
    1.2055937051773071f,
    0.47143805027008057f,
    0.10248950123786926f,
    0.01041194424033165f,
};
/* where softplus is 1 */
#define SOFTPLUS_ONE_HIGH 0.5413248538970947f
#define SOFTPLUS_ONE_LOW 7.158234005544273e-10f
/* 1 - softplus = d T(d), d = z - that, |d| <= 1/4; 2^-26.06 */
#define SOFTPLUS_ONE_T_TERMS 6
static const real SOFTPLUS_ONE_T[] = {
    -0.6321205496788025f,
    -0.11627207696437836f,
    0.010239982977509499f,
    0.0038296182174235582f,
    -0.0008912436896935105f,
    -0.00016169148148037493f,
};
/* where gelu is 1 */
#define GELU_ONE_HIGH 1.1444506645202637f
#define GELU_ONE_LOW 5.383261481028967e-08f
/* 1 - gelu = d T(d), d = z - that, |d| <= 1/4; 2^-27.07 */
#define GELU_ONE_T_TERMS 6
static const real GELU_ONE_T[] = {
    -1.1109707355499268f,
    -0.07152586430311203f,
    0.10634757578372955f,
    -0.029816066846251488f,
    -0.010454617440700531f,
    0.006720040924847126f,
};
/* where silu is 1 */
#define SILU_ONE_HIGH 1.2784645557403564f
#define SILU_ONE_LOW -1.2979282537628478e-08f
/* 1 - silu = d T(d), d = z - that, |d| <= 1/4; 2^-31.36 */
#define SILU_ONE_T_TERMS 6
static const real SILU_ONE_T[] = {
    -1.0f,
    -0.1089058592915535f,
    0.04888291656970978f,
    -0.004718184936791658f,
    -0.0030431614723056555f,
    0.0010882173664867878f,
};
/* log 2; n * high is exact for the n that occur */
#define LOG2_HIGH 0.693145751953125f
#define LOG2_LOW 1.428606765330187e-06f
/* 1 / log 2 */
#define INVERSE_LOG2 1.4426950216293335f
/* sqrt(1/2), where the logarithm's mantissas begin */
#define SQRT_HALF 0.7071067690849304f
/* 1 / sqrt(2 pi) */
#define NORMAL_PEAK 0.3989422917366028f
#else
/* expm1(r) = r + r^2 P(r), |r| <= log(2) / 2; 2^-55.59 */
#define EXP_P_TERMS 10
static const real EXP_P[] = {
    0.5000000000000006,
    0.1666666666666664,
    0.04166666666657567,
    0.008333333333364364,
    0.001388888893164829,
    0.00019841269762808282,
    2.480150526680094e-05,
    2.7557374929553305e-06,
    2.7626032543992724e-07,
    2.506263577761135e-08,
};
/* log((1 + s) / (1 - s)) = 2 s + s^3 R(s^2), |s| <= 3 - sqrt 8; 2^-59.48 */
#define LOG_R_TERMS 7
static const real LOG_R[] = {
    0.6666666666666735,
    0.3999999999940971,
    0.28571428743577326,
    0.22222198439332463,
    0.18183571947139274,
    0.15313838585853154,
    0.1479823468817191,
};
/* the same for |s| <= 1/3; 2^-59.41 */
#define LOG_WIDE_R_TERMS 10
static const real LOG_WIDE_R[] = {
    0.6666666666666631,
    0.4000000000015597,
    0.28571428547992206,
    0.22222223962296367,
    0.1818174415251814,
    0.15386555689387088,
    0.13301022424153452,
    0.12105744331664156,
    0.08341434352782501,
    0.17016353297459705,
};
/* exp(t^2/2) Phi(-t) = P(t) / Q(t), t >= 0; 2^-53.17 */
#define MILLS_P_TERMS 10
static const real MILLS_P[] = {
    0.5,
    0.7749249302182813,
    0.594120815789696,
    0.28938629768243196,
    0.09772362038562153,
    0.023629897486101465,
    0.004090913182688164,
    0.0004906506172882051,
    3.727553483708653e-05,
    1.3866631497612008e-06,
};
/* its denominator */
#define MILLS_Q_TERMS 11
static const real MILLS_Q[] = {
    1.0,
    2.347734421239418,
    2.5614626791520965,
    1.714618429776951,
    0.7821904898661768,
    0.2550243051027691,
    0.06045429660170896,
    0.010347834551208445,
    0.0012333545595169615,
    9.343590957250717e-05,
    3.4758490585905756e-06,
};
/* where softplus is 1 */
#define SOFTPLUS_ONE_HIGH 0.5413248546129181
#define SOFTPLUS_ONE_LOW -1.8138570925507326e-17
/* 1 - softplus = d T(d), d = z - that, |d| <= 1/4; 2^-55.53 */
#define SOFTPLUS_ONE_T_TERMS 13
static const real SOFTPLUS_ONE_T[] = {
    -0.6321205588285577,
    -0.11627207896741482,
    0.01024128803287475,
    0.0038298564334538366,
    -0.0009168666168447531,
    -0.00016565202631809356,
    7.943068534843708e-05,
    4.791477908768391e-06,
    -6.525985655523795e-06,
    2.4917053737407806e-07,
    4.255169835656848e-07,
    -6.78289141342367e-08,
    3.7037549498143423e-07,
};
/* where gelu is 1 */
#define GELU_ONE_HIGH 1.144450718352879
#define GELU_ONE_LOW -9.233841807009684e-17
/* 1 - gelu = d T(d), d = z - that, |d| <= 1/4; 2^-53.9 */
#define GELU_ONE_T_TERMS 13
static const real GELU_ONE_T[] = {
    -1.1109707435159253,
    -0.07152586534691624,
    0.10634898461531249,
    -0.029817284797169715,
    -0.01049176223830409,
    0.006792432246928892,
    0.00022922008746932917,
    -0.000849532948223933,
    8.725856040630331e-05,
    7.262482243550844e-05,
    -1.5083888535501551e-05,
    -4.41389597460969e-06,
    -6.896092454170353e-07,
};
/* where silu is 1 */
#define SILU_ONE_HIGH 1.2784645427610737
#define SILU_ONE_LOW 1.0946994183093437e-16
/* 1 - silu = d T(d), d = z - that, |d| <= 1/4; 2^-61.9 */
#define SILU_ONE_T_TERMS 13
static const real SILU_ONE_T[] = {
    -1.0,
    -0.10890585285990004,
    0.04888293233231564,
    -0.00471870355595085,
    -0.0030445310446387446,
    0.0011010981903946343,
    1.808963010990542e-05,
    -9.981527166214104e-05,
    2.063413442205632e-05,
    4.0915018619172024e-06,
    -2.7029784862572205e-06,
    2.3284301664157592e-07,
    1.7982902589778327e-07,
};
/* log 2; n * high is exact for the n that occur */
#define LOG2_HIGH 0.6931471805601177
#define LOG2_LOW -1.7239444525614835e-13
/* 1 / log 2 */
#define INVERSE_LOG2 1.4426950408889634
/* sqrt(1/2), where the logarithm's mantissas begin */
#define SQRT_HALF 0.7071067811865476
/* 1 / sqrt(2 pi) */
#define NORMAL_PEAK 0.3989422804014327
#endif

#endif
